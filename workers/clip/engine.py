"""A loaded CLIP model as the unit loop sees it (`workers.engine.Engine`), on a GPU or a CPU by the same code.

On a GPU forward passes are started one after the other, which only puts them in its queue: a thread copies its next
batch there on a second stream meanwhile, and waits for its own results after the next thread has started. With two
callers the GPU always has work. On a CPU callers compute side by side, each with its share of the threads: threads that
work at one batch together wait for one another at every operator.

B batch, C = 3 channels, H and W pixels of the model's input, L tokens, D dimension.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.samples import Picture
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.alike import forget_words, words_of
from clipmill.workers.clip.batch_size import CPU_SIZES, GPU_SIZES, best_batch_size
from clipmill.workers.clip.load import Tokenizer
from clipmill.workers.clip.towers import ImageTower, IntraOpThreads, TextTower
from clipmill.workers.decode.prepared import prepared
from clipmill.workers.engine import OutOfMemory, Text, Tokens

# oneDNN makes its kernels anew for every number of rows it has not seen (docs/speed.md: 35 to 45 ms of a core for those
# of a text tower). So texts are parted at multiples of one number and cut at multiples of another: a hundred shapes
# instead of a thousand.
_TEXTS_STEP = 8
_LENGTH_STEP = 2
# On a CPU few images fit its caches, while texts pay in great numbers, where more of one length meet (docs/speed.md).
_CPU_SAMPLES = 128
_CPU_SAMPLES_PER_IMAGE = 16  # so that a small batch, which may have been asked for to save memory, stays small


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a ClipEngine is put together from. `precision`: fp32, bf16 or fp16, resolved. No image tower: for words."""

    image_tower: ImageTower | None
    text_tower: TextTower
    tokenizer: Tokenizer
    fingerprint: Fingerprint
    device: torch.device
    precision: str
    batch_size: int
    threads: int
    untrained: frozenset[int]  # token ids without a vector
    # What an engine's own vectors are compared with; may load the fp32 model once more.
    reference: Callable[[selfcheck.Reference], selfcheck.Reference]


class ClipEngine:
    """Thread-safe: `prepare` runs on any number of threads at once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._batch_size = parts.batch_size
        self._own: selfcheck.Reference | None = None
        self._copies = cast(Any, torch.cuda.Stream)(parts.device) if parts.device.type == "cuda" else None
        self._threads = IntraOpThreads(parts.threads)
        self._pool = ThreadPoolExecutor(self.callers, thread_name_prefix="chunk")  # its threads start when needed
        self._passes = threading.Semaphore(self.callers if self._copies is None else 1)
        # fp32 asks for the exact road: no scaling while a JPEG is decoded, and Pillow's own resize.
        self._exact = parts.precision == "fp32"

    @property
    def fingerprint(self) -> Fingerprint:
        return self._parts.fingerprint

    @property
    def dim(self) -> int:
        return self._parts.fingerprint.dim

    @property
    def batch_size(self) -> int:
        """Images in one forward pass; halved for good where the device has no room for so many."""
        return self._batch_size

    @property
    def samples_at_once(self) -> int:
        """See `workers.engine.Engine.samples_at_once`."""
        if self._copies is not None:
            return self._batch_size
        return max(self._batch_size, min(_CPU_SAMPLES, _CPU_SAMPLES_PER_IMAGE * self._batch_size))

    @property
    def on_gpu(self) -> bool:
        return self._copies is not None

    @property
    def callers(self) -> int:
        return 2 if self._copies is not None else max(1, self._threads.threads)

    def share(self, callers: int) -> None:
        """See `workers.engine.Engine.share`."""
        self._threads.callers = min(max(1, callers), self.callers)

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture:
        """See `workers.engine.Engine.prepare`."""
        how = self.fingerprint.preprocess
        return prepared(image, limits, how, exact=self._exact, thumbnail=thumbnail, phash=phash)

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `workers.engine.Engine.encode_images`."""
        tower = self._parts.image_tower
        assert tower is not None, "this engine was loaded for words alone"
        size = self._batch_size
        chunks = [
            self._on_device(torch.from_numpy(np.ascontiguousarray(pixels_BCHW[start : start + size])))
            for start in range(0, len(pixels_BCHW), size)
        ]
        return self._encoded(tower, chunks)

    def prepare_texts(self, texts: Sequence[str]) -> Sequence[Text]:
        """See `workers.engine.Engine.prepare_texts`."""
        if not texts:
            return []
        return [Tokens(text, ids_L) for text, ids_L in zip(texts, self._tokenize(list(texts)).numpy(), strict=True)]

    def encode_texts(self, texts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """See `workers.engine.Engine.encode_texts`. Equal texts are embedded once, texts of like length together."""
        unique = {text if isinstance(text, str) else text.text: text for text in texts}
        if not unique:
            return np.empty((0, self.dim), np.float32)
        tower = self._parts.text_tower
        tokens_BL = self._tokens(list(unique.values()))
        lengths_B = tower.lengths(tokens_BL)
        order_B = torch.argsort(lengths_B, stable=True)
        spans = _like_lengths(lengths_B[order_B].tolist(), self.samples_at_once)
        groups = [order_B[start:stop] for start, stop in spans]
        cuts = [_LENGTH_STEP * math.ceil(int(lengths_B[rows].max()) / _LENGTH_STEP) for rows in groups]
        chunks = [self._on_device(tokens_BL[rows, :cut].contiguous()) for rows, cut in zip(groups, cuts, strict=True)]
        vectors_BD = np.empty((len(unique), self.dim), np.float32)
        vectors_BD[order_B.numpy()] = self._encoded(tower, chunks)
        place = {text: row for row, text in enumerate(unique)}
        return vectors_BD[[place[text if isinstance(text, str) else text.text] for text in texts]]

    def _on_device(self, chunk: Tensor) -> Tensor:
        """The chunk itself, or its copy that is on its way to the GPU on the stream for copies.

        The pinned source may be dropped: torch gives its memory to nobody before the copy is done.
        """
        if self._copies is None:
            return chunk
        with self._out_of_memory(), torch.cuda.stream(self._copies):
            return chunk.pin_memory().to(self._parts.device, non_blocking=True)

    def _encoded(self, tower: Callable[[Tensor], Tensor], chunks: list[Tensor]) -> npt.NDArray[np.float32]:
        """Unit-length features of all chunks, one after the other (B, D)."""
        if not chunks:
            return np.empty((0, self.dim), np.float32)
        if self._copies is None:
            return torch.cat(self._on_cpu(tower, chunks)).numpy()
        with self._forward():
            compute = torch.cuda.current_stream(self._parts.device)
            compute.wait_stream(self._copies)
            for chunk in chunks:
                chunk.record_stream(compute)  # its memory came from the other stream
            on_gpu_BD = torch.cat([_unit_length(tower(chunk)) for chunk in chunks])
            on_host_BD = torch.empty(on_gpu_BD.shape, dtype=on_gpu_BD.dtype, pin_memory=True)
            on_host_BD.copy_(on_gpu_BD, non_blocking=True)
            done = compute.record_event()
        done.synchronize()  # outside the lock: the next thread's kernels are put into the queue meanwhile
        return on_host_BD.numpy().copy()

    def _on_cpu(self, tower: Callable[[Tensor], Tensor], chunks: list[Tensor]) -> list[Tensor]:
        """Side by side, as callers are, where this one has several threads. One chunk a turn, so that threads which
        another caller leaves are taken up at the next one."""

        def one(chunk: Tensor) -> Tensor:
            with self._forward(parts):
                return _unit_length(tower(chunk))

        parts = min(len(chunks), self._threads.share)
        return list(map(one, chunks) if parts == 1 else self._pool.map(one, chunks))

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """See `workers.engine.Engine.unknown_words`."""
        encode: Any = getattr(self._parts.tokenizer, "encode", None)
        if not self._parts.untrained or encode is None:
            return []
        return [word for word in words_of(texts) if not self._parts.untrained.isdisjoint(encode(word))]

    def tune(self) -> None:
        """See `workers.engine.Engine.tune` and `workers.clip.batch_size`."""
        height, width = self.fingerprint.preprocess.size_HW

        def encode(size: int) -> None:
            self._batch_size = size
            self.encode_images(np.zeros((size, 3, height, width), np.uint8))

        before = self._batch_size
        self.share(self.callers)  # as while units are at work: with all threads other sizes would win
        best = best_batch_size(encode, GPU_SIZES if self._copies is not None else CPU_SIZES)
        self.share(1)
        self._batch_size = best or before

    def own_vectors(self) -> selfcheck.Reference:
        """Those of the self-check, on the road as it is; computed once, because the towers stay as they are."""
        if self._own is None:
            self._own = selfcheck.fast_vectors(self, words=self._parts.image_tower is None)
        return self._own

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        """See `workers.engine.Engine.self_check` and `workers.clip.selfcheck`."""
        identity = self.fingerprint.weights_sha256
        own, known = self.own_vectors(), selfcheck.reference_from(reference, identity)
        if known is None:
            with self._forward():
                known = self._parts.reference(own)
        return selfcheck.compare(known, own, identity=identity, precision=self._parts.precision)

    def _tokens(self, texts: list[Text]) -> Tensor:
        """Token ids (B, L) of texts, of which some may come tokenised."""
        plain = [text for text in texts if isinstance(text, str)]
        made = iter(self._tokenize(plain)) if plain else iter(())
        return torch.stack([next(made) if isinstance(t, str) else torch.from_numpy(t.ids_L) for t in texts])

    def _tokenize(self, texts: list[str]) -> Tensor:
        forget_words(self._parts.tokenizer)
        return self._parts.tokenizer(texts)

    @contextmanager
    def _forward(self, parts: int = 1) -> Iterator[None]:
        """Within the turns of this device, with the right threads; running out of memory becomes OutOfMemory."""
        with self._passes, torch.inference_mode(), self._out_of_memory():
            self._threads.ensure(parts)
            yield

    @contextmanager
    def _out_of_memory(self) -> Iterator[None]:
        """Torch's two ways of saying so become OutOfMemory; smaller chunks from then on, or every batch would fail."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            elif "can't allocate memory" not in str(error):  # how the CPU allocator says it
                raise
            self._batch_size = max(1, self._batch_size // 2)
            raise OutOfMemory(str(error).splitlines()[0]) from error


def _like_lengths(lengths: list[int], most: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of runs of ascending lengths that are embedded together: at most `most`; parted, at multiples of
    _TEXTS_STEP, before one that is half as long again as the shortest."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        full = stop - start >= most
        ends = stop == len(lengths)
        longer = not ends and (stop - start) % _TEXTS_STEP == 0 and 2 * lengths[stop] > 3 * lengths[start]
        if full or ends or longer:
            yield start, stop
            start = stop


def _unit_length(features_BD: Tensor) -> Tensor:
    """float32, divided by their norm; a row that is not finite or is zero becomes NaN."""
    vectors_BD = features_BD.float()
    norms_B1 = vectors_BD.norm(dim=-1, keepdim=True)
    good_B1 = torch.isfinite(norms_B1) & (norms_B1 > 0)
    return torch.where(good_B1, vectors_BD / norms_B1, torch.full_like(vectors_BD, math.nan))
