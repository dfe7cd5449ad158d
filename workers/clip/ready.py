"""The towers of a loaded model made ready for a device and a precision: what no feature needs is left out, what can be
folded into the weights in low precision is folded before they round, and each step is proved on numbers.

The two have nothing in common, so each is made ready in a thread of its own, with half of torch's threads: threads that
work at one small batch together wait for one another at every operator, and where other processes are busy, for long.
What is computed does not depend on it.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.fold import (
    fold_batchnorm,
    fold_normalisation,
    fold_quick_gelu,
    image_features,
    normalise,
    pixel_convs,
    pixels_met,
    probe_pixels,
    widen_pixel_convs,
)
from clipmill.workers.clip.last import shorten_image_tower
from clipmill.workers.clip.load import Loaded, own_weights
from clipmill.workers.clip.pack import pack
from clipmill.workers.clip.towers import ImageTower, TextTower

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_PACKED_ON = 2  # texts; the self-check looks at all

One = TypeVar("One")
Other = TypeVar("Other")


def side_by_side(one: Callable[[], One], other: Callable[[], Other]) -> tuple[One, Other]:
    """Both results, of two threads where torch has more than one in this. Raises what one of them raised, once both
    have ended."""
    threads = torch.get_num_threads()
    if threads == 1:
        return one(), other()

    def with_half(work: Callable[[], One | Other]) -> One | Other:
        torch.set_num_threads(threads // 2)  # of the calling thread
        return work()

    try:
        with ThreadPoolExecutor(2, thread_name_prefix="load") as pool:
            first, second = pool.submit(with_half, one), pool.submit(with_half, other)
        return first.result(), second.result()  # type: ignore[return-value]
    finally:
        torch.set_num_threads(threads)


def aside(work: Callable[[], One]) -> Callable[[], One]:
    """Begin it in a thread, where torch has more than one in this; what is returned waits for the result."""
    if torch.get_num_threads() == 1:
        result = work()
        return lambda: result
    pool = ThreadPoolExecutor(1, thread_name_prefix="load")
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future.result


def towers(
    loaded: Loaded, device: torch.device, precision: str, before_writing: Callable[[], object]
) -> tuple[ImageTower, TextTower]:
    """Both, on the device; of `loaded.model` the text tower's part is left. `before_writing`: called before the first
    weight is changed in its place, from either thread."""
    loaded.model.to("cpu")
    eyes = nn.Module()
    eyes.visual, loaded.model.visual = loaded.model.visual, nn.Identity()
    return side_by_side(
        lambda: _image_tower(eyes, loaded, device, precision, before_writing),
        lambda: text_tower(loaded, device, precision, before_writing),
    )


def text_tower(loaded: Loaded, device: torch.device, precision: str, before_writing: Callable[[], object]) -> TextTower:
    """Alone; the tower of pictures is let go."""
    model = loaded.model
    model.visual = nn.Identity()
    tokens_BL = loaded.tokenizer(list(selfcheck.TEXTS))
    tower = TextTower(model.to("cpu"), tokens_BL)
    before_writing()
    dtype = _choose(model, precision)
    _convert(model, loaded, device, dtype)
    if device.type == "cpu" and dtype == torch.bfloat16:
        cut_BL = tower.cut(tokens_BL[:_PACKED_ON])  # what is not packed yet is slow
        pack(model, lambda: tower(cut_BL))
    return tower


def _image_tower(
    eyes: nn.Module, loaded: Loaded, device: torch.device, precision: str, before_writing: Callable[[], object]
) -> ImageTower:
    """`eyes`: a module whose `visual` is the tower."""
    visual, preprocess = eyes.visual, loaded.preprocess
    assert isinstance(visual, nn.Module)
    pixels_BCHW = probe_pixels(preprocess)
    normalised_BCHW = normalise(pixels_BCHW, preprocess)
    met = None if precision == "fp32" else pixels_met(visual, preprocess)
    before = [] if met is None else [met[1]]  # the same features, which need not be computed twice
    shorten_image_tower(visual, lambda: before.pop() if before else image_features(visual, normalised_BCHW))
    before_writing()
    folded, exact = False, dict[str, nn.Conv2d]()
    dtype = _choose(eyes, precision)
    if precision != "fp32":
        folded = fold_normalisation(eyes, preprocess, None if fold_batchnorm(eyes, preprocess) else met)
        exact = {} if folded else copy.deepcopy(pixel_convs(visual, preprocess))
    del met
    _convert(eyes, loaded, device, dtype)
    widen_pixel_convs(visual, exact, dtype)
    tower = ImageTower(eyes, preprocess, dtype=dtype, folded=folded, wide=bool(exact))
    if device.type == "cpu" and dtype == torch.bfloat16:
        pack(visual, lambda: tower(pixels_BCHW))
    return tower


def _choose(model: nn.Module, precision: str) -> torch.dtype:
    """The dtype of a precision; what a tower is given before it is in it."""
    if precision == "fp32":
        # TF32 rounds to ten bits, which is not what fp32 was asked for.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        fold_quick_gelu(model)
    return DTYPES[precision]


def _convert(model: nn.Module, loaded: Loaded, device: torch.device, dtype: torch.dtype) -> None:
    """To another dtype or device, or a copy: in any case nothing of it lies in the checkpoint's file afterwards."""
    if device.type == "cpu":
        own_weights(model, loaded.pages, dtype)
        return
    old: list[Tensor] = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    model.to(device=device, dtype=dtype)
    loaded.pages.let_go(old)
