"""The same tower in other forms: what each operator is computed by, never what is computed.

Each takes a copy of the tower and gives a function from uint8 pixels (B, 3, H, W) on the device to features (B, D).
None of them is clipmill's road; whichever wins on a real card behind the self-check may become it.

B batch, L tokens, W width, H heads, K the width of what a layer takes.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmill.workers.clip.towers import ImageTower

Form = Callable[[Tensor], Tensor]
_FP8_MOST = 448.0  # of float8_e4m3fn


class FusedAttention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself: one product for q, k and v, torch's fused attention, no mask."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self.qkv = nn.Linear(attention.embed_dim, 3 * attention.embed_dim)
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out = attention.out_proj

    def forward(self, x_BLW: Tensor, *_: Tensor, need_weights: bool = False, attn_mask: Any = None) -> Any:
        assert attn_mask is None
        batch, length, width = x_BLW.shape
        qkv = self.qkv(x_BLW).view(batch, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        mixed_BHLW = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.out(mixed_BHLW.transpose(1, 2).reshape(batch, length, width)), None


class FusedGelu(nn.Module):
    """A linear layer and the GELU after it in one call, which takes the tanh form of it on a GPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x_BLK: Tensor) -> Tensor:
        rows_NK = x_BLK.flatten(0, -2)
        out_NW = torch._addmm_activation(self.linear.bias, rows_NK, self.linear.weight.t(), use_gelu=True)
        return out_NW.view(*x_BLK.shape[:-1], -1)


class Fp8Linear(nn.Module):
    """Weights and what comes in as float8 with a scale for each row of either; sums in fp32, bf16 out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_WK, scale_W1 = _as_fp8(linear.weight)
        self.weight_WK, self.scale_1W = weight_WK, scale_W1.t().contiguous()
        self.bias = linear.bias

    def forward(self, x_BLK: Tensor) -> Tensor:
        rows_NK, scale_N1 = _as_fp8(x_BLK.flatten(0, -2))
        out_NW = torch._scaled_mm(
            rows_NK,
            self.weight_WK.t(),
            scale_a=scale_N1,
            scale_b=self.scale_1W,
            bias=self.bias.to(torch.bfloat16),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return out_NW.view(*x_BLK.shape[:-1], -1).to(x_BLK.dtype)


def _as_fp8(x_NK: Tensor) -> tuple[Tensor, Tensor]:
    """(float8 (N, K), fp32 scale of each row (N, 1))."""
    scale_N1 = x_NK.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / _FP8_MOST
    return (x_NK / scale_N1).clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn), scale_N1


def changed(tower: ImageTower, swap: Callable[[nn.Module], nn.Module | None]) -> ImageTower:
    """A copy in which `swap` has replaced modules; those that it answers with None stay. Raises ValueError for none."""
    copied = copy.copy(tower)
    copied.visual = copy.deepcopy(tower.visual)
    count = 0
    for parent in list(copied.visual.modules()):
        for name, child in list(parent.named_children()):
            new = swap(child)
            if new is not None:
                setattr(parent, name, new)
                count += 1
    if not count:
        raise ValueError("there is nothing in this tower that it could change")
    return copied


def eager(tower: ImageTower) -> Form:
    return tower


def channels_last(tower: ImageTower) -> Form:
    copied = copy.copy(tower)
    copied.visual = copy.deepcopy(tower.visual).to(memory_format=torch.channels_last)
    return lambda pixels_BCHW: copied(pixels_BCHW.contiguous(memory_format=torch.channels_last))


def fused(tower: ImageTower) -> ImageTower:
    """Attention as one product for q, k and v; an MLP's GELU within its first layer."""

    def swap(module: nn.Module) -> nn.Module | None:
        if type(module) is nn.MultiheadAttention and module.batch_first:
            return FusedAttention(module)
        if type(module) is nn.Sequential and len(module) == 3 and type(module[1]) is nn.GELU:
            return nn.Sequential(FusedGelu(cast(nn.Linear, module[0])), module[2])
        return None

    return changed(tower, swap)


def fp8(tower: ImageTower) -> ImageTower:
    """Every linear layer of the blocks; patches, norms, what attention mixes and the projection stay bf16."""

    def attention(module: nn.Module) -> nn.Module | None:
        return FusedAttention(module) if type(module) is nn.MultiheadAttention and module.batch_first else None

    def linear(module: nn.Module) -> nn.Module | None:
        if type(module) in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
            layer = cast(nn.Linear, module)
            return Fp8Linear(layer) if layer.in_features % 16 == 0 == layer.out_features % 16 else None
        return None

    return changed(changed(tower, attention), linear)


def compiled(tower: ImageTower) -> Form:
    def run(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return tower(pixels_BCHW)

    return cast(Form, torch.compile(run, dynamic=False))


class Graphed:
    """Captured once as a CUDA graph, for one shape of pixels; the features are valid until the next call."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._graph: Any = None

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        if self._graph is None or self._pixels_BCHW.shape != pixels_BCHW.shape:
            self._capture(pixels_BCHW)
        self._pixels_BCHW.copy_(pixels_BCHW)
        self._graph.replay()
        return self._features_BD

    def _capture(self, pixels_BCHW: Tensor) -> None:
        self._pixels_BCHW = pixels_BCHW.clone()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self._form(self._pixels_BCHW)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._features_BD = self._form(self._pixels_BCHW)


ON_ANY: dict[str, Callable[[ImageTower], Form]] = {
    "fused QKV and GELU": fused,
    "channels last": channels_last,
    "fp8": fp8,
}
ON_GPU: dict[str, Callable[[ImageTower], Form]] = {
    "CUDA graph": Graphed,
    "fused, CUDA graph": lambda tower: Graphed(fused(tower)),
}
# A minute of a compiler, which a CPU without one does not have; last, so that the others are known before it.
COMPILED: dict[str, Callable[[ImageTower], Form]] = {
    "compiled": compiled,
    "fp8, compiled": lambda tower: compiled(fp8(tower)),
}
