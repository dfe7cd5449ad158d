"""Words to vectors without torch: the text tower of open_clip's own kind in numpy, for whoever asks one question.

Importing torch takes longer than all else of a search by words. The weights are read from the safetensors file and
hashed as `load.weights_sha256` does, so that a tower that answers is the one of the table's fingerprint; the words are
taken apart by open_clip's own tokenizer. What is not known to be plain, or differs, is left to torch: `word_engine`
gives None. Computed in fp32; tests compare with open_clip.

L tokens, W width, H heads, D dimension of the shared space, B texts.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.config import Limits
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.samples import Picture
from clipmill.workers.clip.library import without_torch
from clipmill.workers.clip.names import find
from clipmill.workers.engine import Text, Tokens
from clipmill.workers.naming import catalog
from clipmill.workers.naming.names import CONFIG, read_config

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]

# What a configuration may say, so that the tower is the one below; any other key asks for something else.
_MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}
_FLOATS = {"F16", "F32"}  # numpy has no bf16
_LN_EPS, _QUICK = 1e-5, np.float32(1.702)
_WORD = re.compile(r"[^\W\d_]+|\d+")
_AT_ONCE = 32
_HASHED = {**dict.fromkeys(_FLOATS, np.float32), "I64": np.int64}


class WordEngine:
    """`workers.engine.Engine` for texts alone; thread-safe, because nothing in it changes."""

    batch_size, samples_at_once, callers = 1, _AT_ONCE, 1

    def __init__(self, fingerprint: Fingerprint, tower: "Tower", tokenizer: Any) -> None:
        self.fingerprint, self.dim = fingerprint, fingerprint.dim
        self._tower, self._tokenizer, self._one_thread = tower, tokenizer, _OneThread()

    def prepare_texts(self, texts: Sequence[str]) -> Sequence[Text]:
        return [Tokens(text, self._ids(text)) for text in texts]

    def encode_texts(self, texts: Sequence[Text]) -> Array:
        """Unit vectors (B, D); a row that is not finite or is zero becomes NaN."""
        vectors_BD = np.empty((len(texts), self.dim), np.float32)
        with self._one_thread:
            for row, text in enumerate(texts):
                vector_D = self._tower(self._ids(text) if isinstance(text, str) else text.ids_L)
                length = np.linalg.norm(vector_D)
                vectors_BD[row] = vector_D / length if np.isfinite(length) and length > 0 else np.nan
        return vectors_BD

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        words = dict.fromkeys(word for text in texts for word in _WORD.findall(text.lower()))
        known = self._tower.trained
        return [word for word in words if not known[self._tokenizer.encode(word)].all()]

    def _ids(self, text: str) -> npt.NDArray[np.int64]:
        """As SimpleTokenizer does for one text, without what follows the end token (L,)."""
        most, tokenizer = self._tower.context_length, self._tokenizer
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text)[: most - 2], tokenizer.eot_token_id]
        return np.asarray(ids, np.int64)

    def share(self, callers: int) -> None:
        pass

    def tune(self) -> None:
        pass

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture:
        raise AssertionError("this engine was loaded for words alone")

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> Array:
        raise AssertionError("this engine was loaded for words alone")

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        raise AssertionError("this engine was loaded for words alone")


class _OneThread:
    """BLAS has one thread as long as anybody is inside: products of a few tokens gain little from more, and threads
    that spin while they wait take ten times as much on a busy machine."""

    def __init__(self) -> None:
        from threadpoolctl import ThreadpoolController  # where it is missing, so is torch, which is then named

        self._lock, self._inside = threading.Lock(), 0
        self._controller = ThreadpoolController()
        self._limited: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limited = self._controller.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limited.restore_original_limits()


class Tower:
    """open_clip's TextTransformer with causal attention, pooled at the end token: ids (L,) to features (D,)."""

    def __init__(self, weights: Mapping[str, Array], *, layers: int, heads: int, quick: bool) -> None:
        """`weights`: by the names of open_clip's CLIP. Raises KeyError where one is missing."""
        self._weights, self._heads = weights, heads
        self._activation = _quick_gelu if quick else _gelu
        self._embedding, self._positions = weights["token_embedding.weight"], weights["positional_embedding"]
        self._projection_WD = weights["text_projection"]
        self._blocks = [f"transformer.resblocks.{number}" for number in range(layers)]
        self.context_length = len(self._positions)
        self.trained: npt.NDArray[np.bool_] = np.any(self._embedding != 0, axis=1)

    def __call__(self, ids_L: npt.NDArray[np.int64]) -> Array:
        ids_L = ids_L[: int(ids_L.argmax()) + 1]  # nothing after the end token, the greatest of all ids, matters
        length = len(ids_L)
        x_LW = self._embedding[ids_L] + self._positions[:length]
        mask_LL = np.triu(np.full((length, length), -np.inf, np.float32), k=1)
        for block in self._blocks:
            x_LW = x_LW + self._attention(block, self._norm(f"{block}.ln_1", x_LW), mask_LL)
            inner = self._linear(f"{block}.mlp.c_fc", self._norm(f"{block}.ln_2", x_LW))
            x_LW = x_LW + self._linear(f"{block}.mlp.c_proj", self._activation(inner))
        features_D: Array = self._norm("ln_final", x_LW[-1]) @ self._projection_WD
        return features_D

    def _attention(self, block: str, x_LW: Array, mask_LL: Array) -> Array:
        length, width = x_LW.shape
        qkv = x_LW @ self._weights[f"{block}.attn.in_proj_weight"].T + self._weights[f"{block}.attn.in_proj_bias"]
        q, k, v = qkv.reshape(length, 3, self._heads, width // self._heads).transpose(1, 2, 0, 3)
        scores_HLL = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(width // self._heads)) + mask_LL
        scores_HLL = np.exp(scores_HLL - scores_HLL.max(axis=-1, keepdims=True))
        mixed = (scores_HLL / scores_HLL.sum(axis=-1, keepdims=True)) @ v
        return self._linear(f"{block}.attn.out_proj", mixed.transpose(1, 0, 2).reshape(length, width))

    def _linear(self, name: str, x: Array) -> Array:
        made: Array = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return made

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(_LN_EPS))
        made: Array = centred * scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return made


def _quick_gelu(x: Array) -> Array:
    with np.errstate(over="ignore"):
        made: Array = x / (1 + np.exp(-_QUICK * x))
    return made


def _gelu(x: Array) -> Array:
    """x times the normal distribution's integral; its erf by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    made: Array = np.float32(0.5) * x * (1 + erf)
    return made


def word_engine(fingerprint: Fingerprint) -> WordEngine | None:
    """None where torch has to do it: another kind of tower or tokenizer, weights in another kind of file, other weights
    than the fingerprint's, or an open_clip that is made otherwise."""
    try:
        return _made(fingerprint)
    except ClipmillError:
        return None  # torch's road meets it too, and says it
    except Exception as error:  # noqa: BLE001 - of an open_clip or a file that is made otherwise, anything
        logger.info("words are embedded by torch: %s: %s", type(error).__name__, error)
        return None


def _made(fingerprint: Fingerprint) -> WordEngine | None:
    library = without_torch()
    resolved = find(fingerprint.spec(), library)
    if resolved.checkpoint is None or resolved.checkpoint.suffix != ".safetensors":
        return None
    beside = resolved.checkpoint.parent / CONFIG
    config = catalog.config(resolved.open_clip_name) or read_config(beside)
    text = config["text_cfg"]
    if not (set(config) <= _MODEL_KEYS and set(text) == _TEXT_KEYS):
        return None
    tokenizer = library.part("tokenizer").SimpleTokenizer(context_length=text["context_length"])
    name = f"SimpleTokenizer context_length={text['context_length']} vocab_size={tokenizer.vocab_size}"
    if name != fingerprint.tokenizer or text["vocab_size"] < tokenizer.vocab_size:
        return None
    weights, sha256 = _weights(resolved.checkpoint)
    if sha256 != fingerprint.weights_sha256:
        return None
    tower = Tower(weights, layers=text["layers"], heads=text["heads"], quick=bool(config.get("quick_gelu")))
    return WordEngine(fingerprint, tower, tokenizer)


def _weights(checkpoint: Path) -> tuple[dict[str, Array], str]:
    """The text tower's tensors in fp32 by their names in CLIP, and the hash over all tensors of the file. A file whose
    tensors are called otherwise than the model's has another hash than the model."""
    from safetensors import safe_open

    digest, kept = hashlib.sha256(), {}
    with safe_open(str(checkpoint), framework="numpy") as file:
        for name in sorted(file.keys()):
            kind = file.get_slice(name).get_dtype()
            values = np.ascontiguousarray(file.get_tensor(name), _HASHED[kind]).reshape(
                file.get_slice(name).get_shape()
            )
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(np.uint8).data)
            if not name.startswith("visual."):
                kept[name.removeprefix("text.")] = values
    return kept, digest.hexdigest()
