"""Words, and a few pictures, to vectors without torch: towers of open_clip's own kind in numpy, for whoever asks one
question.

Importing torch takes longer than all else of a search by words. The weights are read from the safetensors file and
hashed as torch's road does (`alike`), so that a tower that answers is the one of the table's fingerprint; the words are
taken apart by open_clip's own tokenizer, pictures prepared as the fingerprint says. What is not known to be plain, or
differs, is left to torch: `plain_engine` gives None. Computed in fp32; tests compare with open_clip.

L tokens, W width, H heads, D dimension of the shared space, B texts.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.samples import Picture
from clipmill.workers.clip.alike import bounded, forget_words, hash_of, words_of
from clipmill.workers.clip.layers import Array, Layers, OneThread, gelu, quick_gelu
from clipmill.workers.clip.library import without_torch
from clipmill.workers.clip.names import find
from clipmill.workers.clip.pictures import PictureTower, normalised, picture_tower
from clipmill.workers.engine import Text, Tokens
from clipmill.workers.naming import catalog
from clipmill.workers.naming.names import CONFIG, read_config

logger = logging.getLogger(__name__)

# What a configuration may say, so that the tower is the one below; any other key asks for something else.
_MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}
_FLOATS = {"F16", "F32"}  # numpy has no bf16
_AT_ONCE = 32
_HASHED = {**dict.fromkeys(_FLOATS, np.float32), "I64": np.int64}


class PlainEngine:
    """`workers.engine.Engine` for texts, and with `pictures` for a few of those; thread-safe, because nothing in it
    changes."""

    batch_size, samples_at_once, callers = 1, _AT_ONCE, 1

    def __init__(
        self, fingerprint: Fingerprint, tower: "Tower", tokenizer: Any, pictures: PictureTower | None = None
    ) -> None:
        self.fingerprint, self.dim = fingerprint, fingerprint.dim
        self._tower, self._tokenizer, self._pictures, self._one_thread = tower, tokenizer, pictures, OneThread()

    def prepare_texts(self, texts: Sequence[str]) -> Sequence[Text]:
        return [Tokens(text, self._ids(text)) for text in texts]

    def encode_texts(self, texts: Sequence[Text]) -> Array:
        """Unit vectors (B, D); a row that is not finite or is zero becomes NaN."""
        ids = (self._ids(text) if isinstance(text, str) else text.ids_L for text in texts)
        with self._one_thread:
            return self._unit_length([self._tower(ids_L) for ids_L in ids])

    def _unit_length(self, features: Sequence[Array]) -> Array:
        vectors_BD = np.empty((len(features), self.dim), np.float32)
        for row, vector_D in enumerate(features):
            length = np.linalg.norm(vector_D)
            vectors_BD[row] = vector_D / length if np.isfinite(length) and length > 0 else np.nan
        return vectors_BD

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        known = self._tower.trained
        return [word for word in words_of(texts) if not known[self._tokenizer.encode(word)].all()]

    def _ids(self, text: str) -> npt.NDArray[np.int64]:
        """As SimpleTokenizer does for one text, without what follows the end token (L,)."""
        most, tokenizer = self._tower.context_length, self._tokenizer
        forget_words(tokenizer)
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text)[: most - 2], tokenizer.eot_token_id]
        return np.asarray(ids, np.int64)

    def share(self, callers: int) -> None:
        pass

    def tune(self) -> None:
        pass

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture:
        """As fp32 asks for it: on the exact road."""
        from clipmill.workers.decode.prepared import prepared  # decoders, which words need not have

        how = self.fingerprint.preprocess
        return prepared(image, limits, how, exact=True, thumbnail=thumbnail, phash=phash)

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> Array:
        """Unit vectors (B, D); a row that is not finite or is zero becomes NaN."""
        assert self._pictures is not None, "this engine was loaded for words alone"
        pictures, how = self._pictures, self.fingerprint.preprocess
        with self._one_thread, np.errstate(over="ignore", invalid="ignore"):
            return self._unit_length([pictures(normalised(pixels_CHW, how)) for pixels_CHW in pixels_BCHW])

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        raise AssertionError("this engine is for questions, not for a run")


class Tower:
    """open_clip's TextTransformer with causal attention, pooled at the end token: ids (L,) to features (D,)."""

    def __init__(self, weights: Mapping[str, Array], *, layers: int, heads: int, quick: bool) -> None:
        """`weights`: by the names of open_clip's CLIP. Raises KeyError where one is missing."""
        self._layers = Layers(weights, heads=heads, activation=quick_gelu if quick else gelu)
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
            x_LW = self._layers.block(block, x_LW, mask_LL)
        features_D: Array = self._layers.norm("ln_final", x_LW[-1]) @ self._projection_WD
        return features_D


def plain_engine(fingerprint: Fingerprint, *, pictures: bool) -> PlainEngine | None:
    """`pictures`: it embeds a few of those too. None where torch has to do it: another kind of tower or tokenizer,
    weights in another kind of file, other weights than the fingerprint's, or an open_clip that is made otherwise."""
    try:
        return _made(fingerprint, pictures)
    except ClipmillError:
        return None  # torch's road meets it too, and says it
    except Exception as error:  # noqa: BLE001 - of an open_clip or a file that is made otherwise, anything
        logger.info("torch embeds what was asked: %s: %s", type(error).__name__, error)
        return None


def _made(fingerprint: Fingerprint, pictures: bool) -> PlainEngine | None:
    library = without_torch()
    resolved = find(fingerprint.spec(), library)
    if resolved.checkpoint is None or resolved.checkpoint.suffix != ".safetensors":
        return None
    beside = resolved.checkpoint.parent / CONFIG
    config = catalog.config(resolved.open_clip_name) or read_config(beside)
    text = config["text_cfg"]
    if not (set(config) <= _MODEL_KEYS and set(text) == _TEXT_KEYS):
        return None
    tokenizer = bounded(library.part("tokenizer").SimpleTokenizer(context_length=text["context_length"]))
    name = f"SimpleTokenizer context_length={text['context_length']} vocab_size={tokenizer.vocab_size}"
    if name != fingerprint.tokenizer or text["vocab_size"] < tokenizer.vocab_size:
        return None
    weights, sha256 = _weights(resolved.checkpoint, pictures)
    if sha256 != fingerprint.weights_sha256:
        return None
    quick = bool(config.get("quick_gelu"))
    tower = Tower(weights, layers=text["layers"], heads=text["heads"], quick=quick)
    if not pictures:
        return PlainEngine(fingerprint, tower, tokenizer)
    eyes = picture_tower(weights, config["vision_cfg"], quick=quick)
    return None if eyes is None else PlainEngine(fingerprint, tower, tokenizer, eyes)


def _weights(checkpoint: Path, pictures: bool) -> tuple[dict[str, Array], str]:
    """The towers' tensors in fp32 by their names in CLIP, those of pictures only where they are asked for; and the hash
    over all tensors of the file. A file whose tensors are called otherwise than the model's has another hash than the
    model."""
    from safetensors import safe_open

    kept: dict[str, Array] = {}

    def tensors() -> Iterator[tuple[str, tuple[int, ...], Any]]:
        for name in sorted(file.keys()):
            kind, shape = file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()
            values = np.ascontiguousarray(file.get_tensor(name), _HASHED[kind]).reshape(shape)
            yield name, values.shape, values.reshape(-1).view(np.uint8).data
            if pictures or not name.startswith("visual."):
                kept[name.removeprefix("text.")] = values

    with safe_open(str(checkpoint), framework="numpy") as file:
        return kept, hash_of(tensors())
