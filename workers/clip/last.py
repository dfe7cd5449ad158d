"""Only one token of a picture or a text becomes its feature, so the last block computes that one alone.

Every token gives keys and values to the last attention; but queries, projection and MLP of the others are thrown away.
Left out they save ten of its twelve matrices, a fifteenth of a tower of 12 blocks, and change nothing: in fp32 the
features are equal but for the order of additions. Each tower is tried on numbers, and left as it was where it differs.

B batch, L tokens, W width, H heads; C channels, h and w of a ResNet's last feature map.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmill.workers.clip.fold import ROAD_ERRORS, differ
from clipmill.workers.clip.library import kind

_RESNET, _POOL = "open_clip.modified_resnet.ModifiedResNet", "open_clip.modified_resnet.AttentionPool2d"
_IMAGES, _TEXTS = "open_clip.transformer.VisionTransformer", "open_clip.transformer.TextTransformer"
_BLOCK = "open_clip.transformer.ResidualAttentionBlock"


class OneQuery(nn.Module):
    """Attention of one token of each sequence with all of it: (B, 1, W) and (B, L, W) to (B, 1, W)."""

    def __init__(self, heads: int, q: nn.Linear, kv: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self._heads, self.q, self.kv, self.out = heads, q, kv, out

    def forward(self, one_B1W: Tensor, all_BLW: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is added to the scores: anything that broadcasts to (B, H, 1, L)."""
        batch, length, width = all_BLW.shape
        q_BH1D = self.q(one_B1W).view(batch, 1, self._heads, width // self._heads).transpose(1, 2)
        kv = self.kv(all_BLW).view(batch, length, 2, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        mixed_BH1D = F.scaled_dot_product_attention(q_BH1D, kv[0], kv[1], attn_mask=mask)
        return cast(Tensor, self.out(mixed_BH1D.transpose(1, 2).reshape(batch, 1, width)))


class LastBlock(nn.Module):
    """open_clip's ResidualAttentionBlock for one token of each sequence: (B, L, W) to (B, 1, W).

    `row` says which, the same for all sequences; None: the caller says it (`rows_B`).
    """

    def __init__(self, block: Any, row: int | None) -> None:
        super().__init__()
        attention, width = block.attn, block.attn.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.attend = OneQuery(
            attention.num_heads,
            _linear(weight[:width], bias[:width]),
            _linear(weight[width:], bias[width:]),
            _linear(attention.out_proj.weight, attention.out_proj.bias),
        )
        self.ln_1, self.ls_1, self.ln_2, self.mlp, self.ls_2 = block.ln_1, block.ls_1, block.ln_2, block.mlp, block.ls_2
        self._row = row

    def get_weight_dtype(self) -> torch.dtype:
        """Asked for by open_clip where this is also the first block."""
        return cast(torch.dtype, self.mlp.c_fc.weight.dtype)

    def forward(self, x_BLW: Tensor, attn_mask: Tensor | None = None, rows_B: Tensor | None = None) -> Tensor:
        """`attn_mask` (L, L) is added to the scores."""
        rows_B = self._rows(x_BLW) if rows_B is None else rows_B
        which_B = torch.arange(len(x_BLW), device=x_BLW.device)
        mask = None if attn_mask is None else attn_mask.to(x_BLW.dtype)[rows_B][:, None, None, :]
        normed_BLW = self.ln_1(x_BLW)
        one_B1W = x_BLW[which_B, rows_B][:, None]
        one_B1W = one_B1W + self.ls_1(self.attend(normed_BLW[which_B, rows_B][:, None], normed_BLW, mask))
        return cast(Tensor, one_B1W + self.ls_2(self.mlp(self.ln_2(one_B1W))))

    def _rows(self, x_BLW: Tensor) -> Tensor:
        assert self._row is not None, "which token is wanted differs from text to text"
        return torch.full((len(x_BLW),), self._row % x_BLW.shape[1], device=x_BLW.device)


class LastPool(nn.Module):
    """The attention pool of open_clip's ResNet for the one feature that it returns: (B, C, h, w) to (B, D).

    open_clip computes the pooled feature of every place and takes that of the mean.
    """

    def __init__(self, pool: Any) -> None:
        super().__init__()
        k, v = pool.k_proj, pool.v_proj
        both = _linear(torch.cat([k.weight, v.weight]), torch.cat([k.bias, v.bias]))
        self.attend = OneQuery(pool.num_heads, pool.q_proj, both, pool.c_proj)
        self.positional_embedding = pool.positional_embedding

    def forward(self, x_BChw: Tensor) -> Tensor:
        x_BLC = x_BChw.flatten(2).transpose(1, 2)
        x_BLC = torch.cat([x_BLC.mean(dim=1, keepdim=True), x_BLC], dim=1) + self.positional_embedding.to(x_BChw.dtype)
        return cast(Tensor, self.attend(x_BLC[:, :1], x_BLC))[:, 0]


def shorten_image_tower(visual: Any, features: Callable[[], Tensor]) -> bool:
    """Let `visual` compute one token in its last block; False, and unchanged, where it cannot. `features` computes some
    with it, on which it is tried."""
    if kind(visual) == _RESNET and kind(visual.attnpool) == _POOL:
        return _swapped(visual, "attnpool", LastPool(visual.attnpool), features)
    if kind(visual) != _IMAGES or visual.output_tokens:
        return False
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return False  # every token is pooled
    return shorten_transformer(visual.transformer, 0, features)


def shorten_text_tower(owner: Any, features: Callable[[], Tensor]) -> bool:
    """The same for a text tower that is not cut and takes the first or the last token of every text. `owner` is the
    module that has its `transformer`."""
    pool = getattr(owner, "text_pool_type", None) or getattr(owner, "pool_type", None)
    row = {"first": 0, "last": -1}.get(str(pool))
    if row is None or getattr(owner, "cls_emb", None) is not None or getattr(owner, "use_pad_mask", False):
        return False
    if kind(owner) == _TEXTS and owner.output_tokens:
        return False
    return shorten_transformer(owner.transformer, row, features)


def shorten_transformer(transformer: Any, row: int | None, features: Callable[[], Tensor]) -> bool:
    """Put a LastBlock in the place of the last block, where that is a plain one and the features stay what they were.
    `transformer`: open_clip's."""
    blocks = getattr(transformer, "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or not getattr(transformer, "batch_first", False):
        return False
    last: Any = blocks[-1]
    if kind(last) != _BLOCK or hasattr(last, "ln_1_kv") or not is_plain(last.attn):
        return False
    return _swapped(blocks, str(len(blocks) - 1), LastBlock(last, row), features)


def is_plain(attention: nn.MultiheadAttention) -> bool:
    """Batch first, with biases, queries, keys and values of one width, and nothing added to them."""
    return (
        attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


def _swapped(parent: nn.Module, name: str, new: nn.Module, features: Callable[[], Tensor]) -> bool:
    old = getattr(parent, name)
    with torch.inference_mode():
        before_BD = features()
        try:
            setattr(parent, name, new.eval())
            works = not differ(before_BD, features())
        except ROAD_ERRORS:  # a block that is called otherwise than the known ones
            works = False
    if not works:
        setattr(parent, name, old)
    return works


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer of these weights, which are not copied."""
    layer = nn.Linear(1, 1, bias=False)
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
