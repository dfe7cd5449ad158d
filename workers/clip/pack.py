"""A bf16 tower on a CPU: weights laid out once for oneDNN, instead of anew in every call.

What torch does by itself costs most where nn.MultiheadAttention gets a mask: its general road multiplies transposed
views, for which there is no fast bf16 kernel. Packed, the text tower of ViT-B-32 takes a sixth of the time, its image
tower a tenth less (one core, batches of 32; figures in docs/speed.md). `torch.compile` emits the same operators, after
a minute or more of compiling, and needs a C++ compiler on every node.

The operators are torch's own, but not documented; whatever fails or differs leaves the tower as it was.

B batch, L tokens, W width, H heads; h and w patches down and across, P pixels of a patch's side.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmill.workers.clip.last import is_plain

logger = logging.getLogger(__name__)

_ROWS = 1600  # the layout is chosen for about this many rows at a time: 32 pictures of 50 tokens
_MIN_COSINE = 0.999  # between the features of both roads; they round differently

Probe = Callable[[], Tensor]


class PackedLinear(nn.Linear):
    """nn.Linear (and a GELU or SiLU after it), bf16 (..., in) to (..., out). One by inheritance because open_clip asks
    what a projection is; its own `weight` holds nothing but a dtype, for which open_clip asks too."""

    def __init__(self, weight: Tensor, bias: Tensor | None, after: nn.GELU | nn.SiLU | None = None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.bias = cast(nn.Parameter, bias)
        self._after = ("none", "")
        if after is not None:
            self._after = ("gelu", after.approximate) if isinstance(after, nn.GELU) else ("swish", "")

    def forward(self, x: Tensor) -> Tensor:
        kind, algorithm = self._after
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, kind, [], algorithm))


class PackedAttention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself, batch first, without its weights; as open_clip calls it."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self._qkv = PackedLinear(cast(Tensor, attention.in_proj_weight), attention.in_proj_bias)
        self._out = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self, q_BLW: Tensor, k_BLW: Tensor, v_BLW: Tensor, *, need_weights: bool, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        assert q_BLW is k_BLW is v_BLW, "packed because it was seen to attend to itself"
        assert not need_weights, "packed because nobody asked for them"
        batch, length, width = q_BLW.shape
        qkv = self._qkv(q_BLW).view(batch, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        mixed_BHLW = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=attn_mask)
        return self._out(mixed_BHLW.transpose(1, 2).reshape(batch, length, width)), None


class PackedPatches(nn.Module):
    """The convolution that cuts pixels into patches, as one multiplication: bf16 (B, C, H, W) to (B, W, h, w).

    torch's own takes four times as long (docs/speed.md: 32 pictures into patches of 32 x 32, 28 ms of a core and 7).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._size_px = conv.kernel_size[0]
        self._project = PackedLinear(conv.weight.flatten(1), conv.bias)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        batch, channels, height, width = pixels_BCHW.shape
        size = self._size_px
        h, w = height // size, width // size
        whole_BCHW = pixels_BCHW[:, :, : h * size, : w * size]  # what is less than a patch is dropped, as it would be
        grid_BChPwP = whole_BCHW.reshape(batch, channels, h, size, w, size)
        rows_NK = grid_BChPwP.permute(0, 2, 4, 1, 3, 5).reshape(batch * h * w, channels * size * size)
        return cast(Tensor, self._project(rows_NK)).view(batch, h, w, -1).permute(0, 3, 1, 2)


def pack(root: nn.Module, probe: Probe) -> int:
    """Replace the linear layers, attentions and patch convolutions that `probe` runs through; how many were replaced.

    `probe` computes some features with `root`, on which the packed tower is tried; where it fails or differs,
    everything is put back and 0 returned.
    """
    with torch.inference_mode():
        with _seen(root) as seen:
            before_BD = probe()  # once: unpacked it takes a second
        replaced: list[tuple[nn.Module, str, nn.Module]] = []
        try:
            for parent, name, new in _replacements(root, seen):
                replaced.append((parent, name, getattr(parent, name)))
                setattr(parent, name, new)
            cosine = float(F.cosine_similarity(before_BD.float(), probe().float(), dim=-1).min())
            reason = "" if cosine >= _MIN_COSINE else f"features differ: cosine {cosine:.5f}"
        except (RuntimeError, NotImplementedError, AttributeError, TypeError, AssertionError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if reason:
        logger.warning("weights are not packed for oneDNN, which is slower: %s", reason)
        for parent, name, old in reversed(replaced):
            setattr(parent, name, old)
        return 0
    return len(replaced)


@contextmanager
def _seen(root: nn.Module) -> Iterator[set[nn.Module]]:
    """The modules that are called while the context lasts, attentions only where they attend to themselves. Layers
    whose weights others use (as the attention pool of open_clip's ResNet does) are never called."""
    seen: set[nn.Module] = set()
    others: set[nn.Module] = set()

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        same = not isinstance(module, nn.MultiheadAttention) or (len(args) == 3 and args[0] is args[1] is args[2])
        (seen if same else others).add(module)

    hooks = [module.register_forward_pre_hook(note) for module in root.modules()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        seen -= others


def _replacements(root: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, new module), made one by one so that only one weight is there twice at a time."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if child not in seen or getattr(parent, name) is not child:
                continue
            if type(child) is nn.MultiheadAttention and is_plain(child):
                yield parent, name, PackedAttention(child)
            elif type(child) is nn.Linear:
                follower = _activation_after(parent, name)
                yield parent, name, PackedLinear(child.weight, child.bias, follower[1] if follower else None)
                if follower:
                    yield parent, follower[0], nn.Identity()
            elif type(child) is nn.Conv2d and _cuts_patches(child):
                yield parent, name, PackedPatches(child)


def _cuts_patches(conv: nn.Conv2d) -> bool:
    size = conv.kernel_size[0]
    return (
        size > 1
        and conv.kernel_size == conv.stride == (size, size)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding in ("valid", (0, 0))
    )


def _activation_after(parent: nn.Module, name: str) -> tuple[str, nn.GELU | nn.SiLU] | None:
    """The activation that follows a layer in a Sequential and that oneDNN computes with it, and its name."""
    if type(parent) is not nn.Sequential:
        return None
    names = list(parent._modules)
    after = names[names.index(name) + 1 :][:1]
    follower: Any = parent._modules[after[0]] if after else None
    return (after[0], follower) if type(follower) in (nn.GELU, nn.SiLU) else None
