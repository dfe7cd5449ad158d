"""Packed towers give what unpacked ones give, and a tower that cannot be packed stays as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import pack as clip_pack
from clipmill.workers.clip import ready as clip_ready
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.pack import PackedAttention, PackedLinear, PackedPatches, pack
from clipmill.workers.load import load_engine
from tests.models import FAMILIES, save_checkpoint

WIDTH, HEADS = 64, 2

needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this processor"
)


class Block(nn.Module):
    """Attention with a causal mask and an MLP, as open_clip puts them together."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.unused = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_BLW: Tensor) -> Tensor:
        mask_LL = torch.full((x_BLW.shape[1], x_BLW.shape[1]), -torch.inf, dtype=x_BLW.dtype).triu(1)
        x_BLW = x_BLW + self.attention(x_BLW, x_BLW, x_BLW, need_weights=False, attn_mask=mask_LL)[0]
        return x_BLW + self.mlp(x_BLW)


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block().eval().requires_grad_(False).to(torch.bfloat16)


@pytest.fixture
def x_BLW() -> Tensor:
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


@needs_bf16
def test_a_packed_block_computes_the_same(block: Block, x_BLW: Tensor) -> None:
    before = block(x_BLW)
    assert pack(block, lambda: block(x_BLW)) > 0
    assert isinstance(block.attention, PackedAttention)
    assert isinstance(block.mlp[0], PackedLinear)
    assert isinstance(block.mlp[1], nn.Identity), "the GELU was not taken in"
    assert type(block.unused) is nn.Linear, "what no forward pass calls must stay"
    after = block(x_BLW)
    assert (after - before).abs().max() <= 0.02 * before.abs().max()  # bf16: 8 bits
    longer = torch.randn(5, 11, WIDTH).to(torch.bfloat16)
    assert torch.equal(block(longer)[:, :4], block(longer[:, :4])), "the mask is not causal"


@needs_bf16
@pytest.mark.parametrize(("height", "width", "bias"), [(32, 48, True), (37, 30, False)])
def test_patches_are_cut_as_the_convolution_cuts_them(height: int, width: int, bias: bool) -> None:
    """Also where the picture is no multiple of a patch, as with 384 pixels in patches of 14."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Conv2d(3, WIDTH, 14 if height == 37 else 16, stride=14 if height == 37 else 16, bias=bias))
    tower = tower.eval().requires_grad_(False).to(torch.bfloat16)
    pixels_BCHW = torch.randn(2, 3, height, width).to(torch.bfloat16)
    before_BWhw = tower(pixels_BCHW)
    assert pack(tower, lambda: tower(pixels_BCHW).flatten(1)) == 1
    assert isinstance(tower[0], PackedPatches)
    after_BWhw = tower(pixels_BCHW)
    assert after_BWhw.shape == before_BWhw.shape
    assert (after_BWhw - before_BWhw).abs().max() <= 0.02 * before_BWhw.abs().max()  # bf16: 8 bits


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(3, 8, 16, stride=8), nn.Conv2d(3, 8, 16, stride=16, padding=1), nn.Conv2d(3, 6, 4, stride=4, groups=3)],
    ids=["overlapping", "padded", "grouped"],
)
def test_other_convolutions_stay(conv: nn.Conv2d) -> None:
    tower = nn.Sequential(conv).eval().requires_grad_(False).to(torch.bfloat16)
    pixels_BCHW = torch.randn(2, 3, 32, 32).to(torch.bfloat16)
    assert pack(tower, lambda: tower(pixels_BCHW).flatten(1)) == 0
    assert tower[0] is conv


@pytest.mark.parametrize("damage", ["raises", "wrong"])
def test_what_cannot_be_packed_stays(
    block: Block, x_BLW: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if damage == "raises":
            raise RuntimeError("this processor cannot")
        return torch.randn(*x.shape[:-1], self.out_features).to(x.dtype)

    before = block(x_BLW)
    monkeypatch.setattr(PackedLinear, "forward", forward)
    assert pack(block, lambda: block(x_BLW)) == 0
    assert "not packed" in caplog.text
    assert torch.equal(block(x_BLW), before)


@needs_bf16
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """Their vectors are compared with the reference's in test_parity."""
    packed: list[int] = []
    monkeypatch.setattr(clip_ready, "pack", lambda root, probe: packed.append(clip_pack.pack(root, probe)))
    folder = save_checkpoint(tmp_path / family, family)
    engine = load_engine(ModelSpec(name=str(folder), precision="bf16"), device="cpu", threads=1)
    assert packed[0] > 0
    assert len(engine.encode_texts(selfcheck.TEXTS)) == len(selfcheck.TEXTS)
