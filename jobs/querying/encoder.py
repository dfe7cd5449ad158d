"""Words and pictures to vectors, by the model that the column's fingerprint names; loaded once, kept warm.

D: dimension. B: examples of one kind.
"""

import io
import logging
import math
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.installed import not_installed, require
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.engine import Engine
from clipmill.workers.process import without_collector

logger = logging.getLogger(__name__)

QUERY_LIMITS = Limits(max_image_bytes=20_000_000, max_pixels=50_000_000)
NO_STORAGE = Storage()
_DOING = "a search by words or pictures"

# What an engine is for: words alone, a question of words and pictures, or many of both. Those that stand later here can
# do what is before them too, and take longer to load.
Use = Literal["words", "question", "all"]
_USES: tuple[Use, ...] = ("words", "question", "all")
# Once pictures spent so long in towers without torch, all of the model is loaded: that takes about as long, and then
# each is done in half the time.
_PICTURES_S = 5.0

_engines: dict[tuple[str, Use], Engine] = {}
_pictures_s: dict[str, float] = {}
_lock = threading.Lock()


def engine_for(fingerprint: Fingerprint, use: Use = "all") -> Engine:
    """The engine whose vectors may be compared with the column's; one per weights and process.

    Raises UserError where the model that loads is not the one that made the vectors, or where there is no torch.
    """
    key = _key(fingerprint)
    if (engine := _loaded_one(key, use)) is None:  # without the lock: words go on while a whole model loads
        with _lock:
            engine = _loaded_one(key, use) or _kept(fingerprint, use)
    if use == "question" and _pictures_s.get(key, 0.0) >= _PICTURES_S:
        return _whole(fingerprint, engine)
    return engine


def _kept(fingerprint: Fingerprint, use: Use) -> Engine:
    """Loaded, in place of what can do less. To be called with the lock."""
    key = _key(fingerprint)
    engine, use = _loaded(fingerprint, use)
    _engines[key, use] = check_engine(engine, fingerprint)
    for less in _USES[: _USES.index(use)]:
        _engines.pop((key, less), None)
    return engine


def _whole(fingerprint: Fingerprint, able: Engine) -> Engine:
    """All of the model; one question waits for it, those beside it take the one that is `able`, as do all of them where
    it does not load."""
    key = _key(fingerprint)
    if (engine := _engines.get((key, "all"))) is not None:
        return engine
    if not _lock.acquire(blocking=False):
        return able
    try:
        return _engines.get((key, "all")) or _kept(fingerprint, "all")
    except (ClipmillError, OSError, MemoryError) as error:
        logger.warning("pictures are embedded without torch, because the model does not load: %s", error)
        _pictures_s[key] = -math.inf
        return able
    finally:
        _lock.release()


def _key(fingerprint: Fingerprint) -> str:
    return f"{fingerprint.weights_sha256}/{fingerprint.tokenizer}"


def _loaded_one(key: str, use: Use) -> Engine | None:
    able = (_engines.get((key, more)) for more in _USES[_USES.index(use) :])
    return next((engine for engine in able if engine is not None), None)


def _loaded(fingerprint: Fingerprint, use: Use) -> tuple[Engine, Use]:
    """And what it is good for, which may be more."""
    from clipmill.workers.load import load_engine, load_few, load_text_engine, load_words

    require(_DOING, "open_clip")
    without_torch = {"words": load_words, "question": load_few}
    try:
        with without_collector():
            if use != "all" and (engine := without_torch[use](fingerprint)) is not None:
                return engine, use
            if use != "words":
                return load_engine(fingerprint.spec()), "all"
            # What the pictures were found to need, words get too, though here is no picture to see it by.
            spec = fingerprint.spec("fp32" if fingerprint.provenance.get("precision_note") else "auto")
            return load_text_engine(spec), use
    except ModuleNotFoundError as error:  # the client alone has no model
        raise not_installed(error, _DOING) or error from None


def check_engine(engine: Engine, fingerprint: Fingerprint) -> Engine:
    if differences := fingerprint.differences(engine.fingerprint):
        raise UserError(
            f"the table's vectors were made by another {fingerprint.model} than the one that loads here "
            f"({'; '.join(differences)})",
            "use the checkpoint the table was embedded with, or search by vector or id",
        )
    return engine


def encode_texts(engine: Engine, texts: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Unit vectors (B, D). Lone surrogates cannot be encoded by any tokenizer, so they become U+FFFD."""
    clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return _finite(engine.encode_texts(clean), "text")


def encode_images(
    engine: Engine, images: tuple[Any, ...], *, limits: Limits = QUERY_LIMITS, storage: Storage = NO_STORAGE
) -> npt.NDArray[np.float32]:
    """Unit vectors (B, D) of paths, URIs, bytes or PIL images. Raises UserError for one that cannot be decoded."""
    pictures = []
    for image in images:
        try:
            pictures.append(engine.prepare(image_bytes(image, limits=limits, storage=storage), limits).pixels_CHW)
        except BadImage as bad:
            raise unusable(bad, limits) from None
    begun = time.monotonic()
    vectors_BD = engine.encode_images(np.stack(pictures))
    key = _key(engine.fingerprint)
    _pictures_s[key] = _pictures_s.get(key, 0.0) + time.monotonic() - begun
    return _finite(vectors_BD, "image")


def unusable(bad: BadImage, limits: Limits) -> UserError:
    """What is wrong with a query image."""
    if bad.reason == Reason.TOO_MANY_PIXELS:
        return UserError(
            f"the query image has more than {limits.max_pixels:,} pixels",
            "give a smaller picture; the model sees only a few hundred pixels a side",
        )
    detail = f" ({bad.detail})" if bad.detail else ""
    return UserError(f"the query image cannot be used: {bad.reason}{detail}", "give a JPEG, PNG, WebP or GIF picture")


def image_bytes(image: Any, *, limits: Limits = QUERY_LIMITS, storage: Storage = NO_STORAGE) -> bytes:
    """The encoded bytes of a query image. Raises UserError."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, Path)):
        return _read(str(image), limits, storage)
    if hasattr(image, "save") and hasattr(image, "mode"):  # a PIL image, without importing PIL to know it
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue()
    raise UserError(f"a query image is a {type(image).__name__}", "give a path, a URI, bytes or a PIL image")


def _read(uri: str, limits: Limits, storage: Storage) -> bytes:
    if "://" in uri:
        from clipmill.workers.store.storage import TooManyBytes, get_bytes

        try:
            return get_bytes(uri, storage, max_bytes=limits.max_image_bytes)
        except TooManyBytes:
            raise _too_large(uri, limits) from None
        except (FileNotFoundError, PermissionError):
            raise UserError(f"the query image {uri} cannot be read", "check the URI and your permissions") from None
    path = Path(uri)
    if not path.is_file():
        raise UserError(f"there is no image file {uri}", "check the path")
    if path.stat().st_size > limits.max_image_bytes:
        raise _too_large(uri, limits)
    return path.read_bytes()


def _too_large(uri: str, limits: Limits) -> UserError:
    return UserError(
        f"{uri} has more than the {limits.max_image_bytes} bytes that a query image may have",
        "give a smaller picture; the model sees only a few hundred pixels",
    )


def combine(
    positive_BD: npt.NDArray[np.float32], negative_BD: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """One unit vector (D,) from examples: mean(positive) - mean(negative) / 2, normalised.

    The direction is Qdrant's "average vector" strategy, 2 * mean(positive) - mean(negative). Raises UserError
    where the examples cancel out.
    """
    vector_D = positive_BD.mean(axis=0)
    if negative_BD is not None and len(negative_BD):
        vector_D = vector_D - negative_BD.mean(axis=0) / 2
    length = float(np.linalg.norm(vector_D))
    if not np.isfinite(length) or length < 1e-6:
        raise UserError("the examples cancel out to a zero vector", "change the examples")
    unit_D: npt.NDArray[np.float32] = (vector_D / length).astype(np.float32)
    return unit_D


def unit_rows(vectors: tuple[npt.NDArray[np.floating[Any]], ...], dim: int) -> npt.NDArray[np.float32]:
    """Query vectors checked and normalised, (B, D). Raises UserError for a wrong dimension, NaN or zero."""
    for vector in vectors:
        if vector.shape != (dim,):
            raise UserError(
                f"a query vector has {vector.size} numbers; the column has {dim}", "use vectors of the table's model"
            )
        if not np.isfinite(vector).all() or not np.any(vector):
            raise UserError("a query vector is zero or not finite", "check how it was made")
    rows_BD = np.stack([np.asarray(v, dtype=np.float64) for v in vectors])
    rows_BD /= np.abs(rows_BD).max(axis=1, keepdims=True)  # first, so that the squares cannot overflow
    unit_BD: npt.NDArray[np.float32] = (rows_BD / np.linalg.norm(rows_BD, axis=1, keepdims=True)).astype(np.float32)
    return unit_BD


def _finite(vectors_BD: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.float32]:
    if not np.isfinite(vectors_BD).all():
        raise UserError(f"the model gives no finite vector for a query {kind}", "try another one")
    return vectors_BD
