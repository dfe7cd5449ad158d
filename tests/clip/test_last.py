"""A last block that computes one token gives that token as it was, and a tower that needs the others is left alone."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip.last import LastBlock, LastPool, shorten_image_tower, shorten_text_tower, shorten_transformer
from clipmill.workers.load import load_engine
from tests.models import FAMILIES, config, save_checkpoint

WIDTH, HEADS, LENGTH = 64, 2, 7

# What each family's towers become: the image tower's last part, and whether the text tower is short.
SHORT = {"vit": LastBlock, "resnet": LastPool, "siglip": None}


def block(**options: Any) -> ResidualAttentionBlock:
    torch.manual_seed(0)
    made = ResidualAttentionBlock(WIDTH, HEADS, **options).eval().requires_grad_(False)
    for parameter in made.parameters():  # biases start at zero, where leaving them out would not be seen
        parameter += 0.1 * torch.randn(parameter.shape)
    return made


def tokens() -> Tensor:
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def causal() -> Tensor:
    return torch.full((LENGTH, LENGTH), -torch.inf).triu(1)


@pytest.mark.parametrize("ls_init_value", [None, 0.3])
@pytest.mark.parametrize("mask", [None, causal()], ids=["all see all", "causal"])
@pytest.mark.parametrize("row", [0, 4, -1])
def test_the_token_is_what_the_whole_block_gives(row: int, mask: Tensor | None, ls_init_value: float | None) -> None:
    whole = block(ls_init_value=ls_init_value)
    got_B1W = LastBlock(whole, row)(tokens(), attn_mask=mask)
    torch.testing.assert_close(got_B1W[:, 0], whole(tokens(), attn_mask=mask)[:, row])


def test_every_text_has_a_token_of_its_own() -> None:
    whole, rows_B = block(), torch.tensor([2, 6, 0])
    got_B1W = LastBlock(whole, None)(tokens(), causal(), rows_B)
    torch.testing.assert_close(got_B1W[:, 0], whole(tokens(), attn_mask=causal())[torch.arange(3), rows_B])


def test_the_pool_of_a_resnet_gives_the_same_feature() -> None:
    pool: Any = open_clip.modified_resnet.AttentionPool2d(3, WIDTH, HEADS, 48).eval().requires_grad_(False)
    maps_BChw = torch.randn(2, WIDTH, 3, 3)
    torch.testing.assert_close(LastPool(pool)(maps_BChw), pool(maps_BChw))


def model(family: str = "vit", **changed: Any) -> Any:
    """A small open_clip model; `changed`: settings of its towers, `vision_` or `text_` before their names."""
    torch.manual_seed(0)
    cfg = config(family)["model_cfg"]
    for name, value in changed.items():
        tower, key = name.split("_", 1)
        cfg[f"{tower}_cfg"][key] = value
    custom = cfg.pop("custom_text", False)
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**cfg).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "changed",
    [{"vision_pool_type": "avg"}, {"vision_attentional_pool": True}, {"vision_output_tokens": True}],
    ids=lambda changed: next(iter(changed)),
)
def test_an_image_tower_that_uses_every_token_is_left_alone(changed: dict[str, Any]) -> None:
    made = model(**changed)
    last = made.visual.transformer.resblocks[-1]
    assert not shorten_image_tower(made.visual, lambda: pytest.fail("nothing to try"))
    assert made.visual.transformer.resblocks[-1] is last


def test_what_differs_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block whose forward pass is not the one that we know."""
    made, pixels_BCHW = model(), torch.randn(2, 3, 64, 64)
    before_BD, last = made.visual(pixels_BCHW), made.visual.transformer.resblocks[-1]
    monkeypatch.setattr(LastBlock, "forward", lambda self, x_BLW, attn_mask=None: 1.1 * x_BLW[:, :1])
    assert not shorten_image_tower(made.visual, lambda: made.visual(pixels_BCHW))
    assert made.visual.transformer.resblocks[-1] is last
    assert torch.equal(made.visual(pixels_BCHW), before_BD)


def test_blocks_of_another_kind_stay() -> None:
    made = model(text_qk_norm=True)
    assert not shorten_transformer(made.transformer, None, lambda: pytest.fail("nothing to try"))


@pytest.mark.parametrize("pool", ["first", "last", "argmax"])
def test_a_text_tower_whose_token_is_at_one_place(pool: str) -> None:
    made = model("siglip", text_pool_type=pool)
    tokens_BL = torch.randint(1, 1000, (3, 32))
    before_BD = made.encode_text(tokens_BL)
    assert shorten_text_tower(made.text, lambda: made.encode_text(tokens_BL)) == (pool != "argmax")
    torch.testing.assert_close(made.encode_text(tokens_BL), before_BD)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_short(tmp_path: Path, family: str, precision: str) -> None:
    """Their vectors are compared with the reference's in test_parity."""
    spec = ModelSpec(name=str(save_checkpoint(tmp_path / family, family)), precision=precision)
    engine: Any = load_engine(spec, device="cpu", threads=1)
    assert engine._parts.text_tower.short
    kinds = {type(module) for module in engine._parts.image_tower.visual.modules()}
    expected: type[nn.Module] | None = SHORT[family]
    assert kinds & {LastBlock, LastPool} == ({expected} if expected else set())
