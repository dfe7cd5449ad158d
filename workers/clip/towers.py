"""The two towers of a loaded model as functions: uint8 pixels or token ids in, features out.

Texts are cut after their last end token where attention is causal; that is tried on numbers when the tower is built
and left out where the result differs. The last block computes one token (`workers.clip.last`), on the same terms.

B batch, C = 3 channels, H and W pixels of the model's input, L tokens, W width of the text tower, D dimension.
"""

import threading
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipmill.schemas.model import Preprocess
from clipmill.workers.clip.fold import CENTRE, ROAD_ERRORS, differ, image_features, normalise
from clipmill.workers.clip.last import LastBlock, shorten_text_tower, shorten_transformer


class ImageTower:
    """uint8 pixels to features. `folded` says that `fold_normalisation` changed the model, `wide` that the
    convolutions that meet the pixels take fp32 (`WideConv`)."""

    def __init__(
        self, model: nn.Module, preprocess: Preprocess, *, dtype: torch.dtype, folded: bool, wide: bool
    ) -> None:
        self.visual = cast(nn.Module, model.visual)
        self.preprocess, self.dtype, self.folded, self.wide = preprocess, dtype, folded, wide

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 on the tower's device to (B, D) features, not normalised, in the tower's dtype."""
        if self.folded:
            prepared_BCHW = pixels_BCHW.to(self.dtype).sub_(CENTRE)
        else:
            prepared_BCHW = normalise(pixels_BCHW, self.preprocess)
            if not self.wide:
                prepared_BCHW = prepared_BCHW.to(self.dtype)
        return image_features(self.visual, prepared_BCHW)


class TextTower:
    """Token ids to features. Where attention is causal, nothing after the end token matters, and it is cut off."""

    def __init__(self, model: nn.Module, tokens_BL: Tensor) -> None:
        """`tokens_BL`: tokenised texts of different lengths, on which what is left out is proved (fp32 model)."""
        self.model: Any = model
        owner: Any = model if hasattr(model, "token_embedding") else getattr(model, "text", None)
        self._owner = owner
        self.cuts = self._may_cut(owner) and self._cut_works(tokens_BL)
        if self.cuts:
            cut_BL = self.cut(tokens_BL)
            self.short = shorten_transformer(owner.transformer, None, lambda: self(cut_BL))
        else:
            self.short = owner is not None and shorten_text_tower(owner, lambda: self(tokens_BL))

    def __call__(self, tokens_BL: Tensor) -> Tensor:
        """(B, L) int64 on the tower's device to (B, D) features, not normalised. Where the tower `cuts`, the caller
        has cut: L is no less than any of `lengths`, which a GPU need not be asked for.
        """
        if not self.cuts:
            return cast(Tensor, self.model.encode_text(tokens_BL))
        return self._encode_cut(tokens_BL)

    def cut(self, tokens_BL: Tensor) -> Tensor:
        """As short as the longest of these texts may be."""
        return tokens_BL[:, : int(self.lengths(tokens_BL).max())]

    def lengths(self, tokens_BL: Tensor) -> Tensor:
        """Tokens up to and with the one whose feature is taken, (B,); L where nothing is cut."""
        if not self.cuts:
            return torch.full((tokens_BL.shape[0],), tokens_BL.shape[1])
        return self._pooled_position(tokens_BL) + 1

    @staticmethod
    def _may_cut(owner: Any) -> bool:
        pool = getattr(owner, "text_pool_type", None) or getattr(owner, "pool_type", None)
        return (
            owner is not None
            and pool in ("argmax", "eos")
            and getattr(owner, "attn_mask", None) is not None
            and getattr(owner, "cls_emb", None) is None
            and not getattr(owner, "use_pad_mask", False)
        )

    def _pooled_position(self, tokens_BL: Tensor) -> Tensor:
        if self._pool_type() == "argmax":
            return tokens_BL.argmax(dim=-1)
        return tokens_BL.eq(self._eos_id()).int().argmax(dim=-1)

    def _pool_type(self) -> str:
        return cast(str, getattr(self._owner, "text_pool_type", None) or self._owner.pool_type)

    def _eos_id(self) -> int:
        return int(self._owner.text_eos_id if hasattr(self._owner, "text_eos_id") else self._owner.eos_id)

    def _encode_cut(self, tokens_BL: Tensor) -> Tensor:
        """`CLIP.encode_text` and `TextTransformer.forward` of open_clip 3.3 on texts that are cut already."""
        length = tokens_BL.shape[1]
        owner = self._owner
        dtype = owner.transformer.get_cast_dtype()
        x_BLW = owner.token_embedding(tokens_BL).to(dtype) + owner.positional_embedding[:length].to(dtype)
        x_BW: Tensor = owner.ln_final(self._pooled(x_BLW, owner.attn_mask[:length, :length], tokens_BL))
        projection = owner.text_projection
        if projection is None:
            return x_BW
        return cast(Tensor, projection(x_BW) if isinstance(projection, nn.Linear) else x_BW @ projection)

    def _pooled(self, x_BLW: Tensor, mask_LL: Tensor, tokens_BL: Tensor) -> Tensor:
        """What the last block gives for the token of each text that is pooled, (B, W)."""
        rows_B = self._pooled_position(tokens_BL)
        *before, last = self._owner.transformer.resblocks
        if not isinstance(last, LastBlock):
            x_BLW = self._owner.transformer(x_BLW, attn_mask=mask_LL)
            return x_BLW[torch.arange(len(rows_B), device=rows_B.device), rows_B]
        for block in before:
            x_BLW = block(x_BLW, attn_mask=mask_LL)
        return cast(Tensor, last(x_BLW, mask_LL, rows_B))[:, 0]

    def _cut_works(self, tokens_BL: Tensor) -> bool:
        try:
            return self._cut_is_exact(tokens_BL)
        except ROAD_ERRORS:  # a tower that looks like one that may be cut, and is another
            return False

    def _cut_is_exact(self, tokens_BL: Tensor) -> bool:
        with torch.inference_mode():
            full_BD = self.model.encode_text(tokens_BL)
            # One by one, so that each is cut as short as it can be.
            ends_B = self._pooled_position(tokens_BL) + 1
            cut_BD = torch.cat([self._encode_cut(tokens_BL[[row], :end]) for row, end in enumerate(ends_B.tolist())])
        return not differ(full_BD, cut_BD)


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and later
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


class IntraOpThreads:
    """torch's thread count is kept per calling thread, and Ray sets OMP_NUM_THREADS=1: each thread that runs a
    forward pass sets it for itself. 0 leaves it as it is."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.callers = 1  # at once, among whom the threads are divided
        self._set = threading.local()

    @property
    def share(self) -> int:
        """Of one caller."""
        return max(1, self.threads // self.callers)

    def ensure(self, parts: int = 1) -> None:
        """`parts`: that a caller computes side by side, each in a thread that calls this."""
        threads = max(1, self.share // parts)
        if self.threads > 0 and getattr(self._set, "threads", 0) != threads:
            torch.set_num_threads(threads)
            self._set.threads = threads
