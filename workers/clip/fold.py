"""What can be computed into the weights of an image tower once, in fp32, before they are rounded.

Each change is tried on numbers.

B batch, C = 3 channels, H and W pixels of the model's input, D dimension.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipmill.schemas.model import Preprocess
from clipmill.workers.clip.library import kind

# uint8 minus this is exact in bf16 and fp16 and keeps the folded convolution's sums small: with 0..255 the rounding of
# the weights is multiplied by the brightness (worst cosine on photographs 0.99975; centred 0.99994).
CENTRE = 128.0
_QUICK = 1.702  # the factor of open_clip's QuickGELU
_PROBE_TOLERANCE = 1e-3  # of the features' norm, in fp32; a wrong shortcut is off by 1e-1 and more
# What an architecture that nobody tried may raise on a road that was not made for it.
ROAD_ERRORS = (
    RuntimeError,
    TypeError,
    AttributeError,
    ValueError,
    AssertionError,
    NotImplementedError,
    LookupError,
)


def image_features(visual: nn.Module, pixels_BCHW: Tensor) -> Tensor:
    """(B, D) of a tower that may give its tokens too, as CoCa's does."""
    features = visual(pixels_BCHW)
    return cast(Tensor, features[0] if isinstance(features, tuple) else features)


def fold_batchnorm(model: nn.Module, preprocess: Preprocess) -> int:
    """Merge each BatchNorm of the image tower into the convolution before it, in fp32; the number merged.

    In low precision this rounds once where there were two roundings, and it saves a pass over the activations.
    """
    visual = cast(nn.Module, model.visual)
    pairs = list(_conv_bn_pairs(visual))
    if not pairs:
        return 0
    pixels_BCHW = normalise(probe_pixels(preprocess), preprocess)
    with torch.inference_mode():
        before_BD = image_features(visual, pixels_BCHW)
    for parent, conv_name, bn_name in pairs:
        conv, bn = getattr(parent, conv_name), getattr(parent, bn_name)
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, bn))
        setattr(parent, bn_name, nn.Identity())
    with torch.inference_mode():
        after_BD = image_features(visual, pixels_BCHW)
    # The layout of the model decides whether this is right, never the weights: a difference is a bug.
    assert not differ(before_BD, after_BD), "merging BatchNorm changed the features"
    return len(pairs)


def _conv_bn_pairs(visual: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """open_clip's ResNet only: `convN` feeds `bnN`, and `0` feeds `1` in a downsampling Sequential."""
    if kind(visual) != "open_clip.modified_resnet.ModifiedResNet":
        return
    for parent in visual.modules():
        for name, child in parent.named_children():
            follower = name.replace("conv", "bn") if name.startswith("conv") else {"0": "1"}.get(name, "")
            if isinstance(child, nn.Conv2d) and isinstance(getattr(parent, follower, None), nn.BatchNorm2d):
                yield parent, name, follower


def fold_quick_gelu(model: nn.Module) -> int:
    """Let the MLPs of both towers compute SiLU, one operator, in the place of QuickGELU's three; the number changed.

    QuickGELU (that of OpenAI's models) is x sigmoid(1.702 x) = silu(1.702 x) / 1.702; the factors go into the layers
    before and after it, in fp32.
    """
    changed = 0
    for mlp in [module for module in model.modules() if type(module) is nn.Sequential]:
        names, layers = list(mlp._modules), list(mlp)
        if len(layers) != 3 or type(layers[0]) is not nn.Linear or type(layers[2]) is not nn.Linear:
            continue
        if kind(layers[1]) != "open_clip.transformer.QuickGELU":
            continue
        first, last = layers[0], layers[2]
        x_BW = torch.randn(8, first.in_features, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            before_BW = mlp(x_BW)
        with torch.no_grad():
            first.weight.mul_(_QUICK)
            last.weight.div_(_QUICK)
            if cast(Tensor | None, first.bias) is not None:
                first.bias.mul_(_QUICK)
        setattr(mlp, names[1], nn.SiLU())
        with torch.inference_mode():
            assert not differ(before_BW, mlp(x_BW)), "folding QuickGELU changed the features"
        changed += 1
    return changed


def probe_pixels(preprocess: Preprocess) -> Tensor:
    """Random uint8 (2, 3, H, W), always the same."""
    return torch.randint(0, 256, (2, 3, *preprocess.size_HW), generator=torch.Generator().manual_seed(0))


def fold_normalisation(
    model: nn.Module, preprocess: Preprocess, met: tuple[dict[str, nn.Conv2d], Tensor] | None = None
) -> bool:
    """Change the fp32 model so that its image tower takes `uint8 - CENTRE`; False, and unchanged, where it cannot.
    `met`: of `pixels_met`, where that has been asked already.

    (x / 255 - mean) / std under weights w and bias b is (x - c) under w / (255 std) and
    b + sum w (c / 255 - mean) / std. A convolution that pads would pad with another grey, so it is left alone.
    """
    visual = cast(nn.Module, model.visual)
    pixels_BCHW = probe_pixels(preprocess)
    convs, before_BD = pixels_met(visual, preprocess) if met is None else met
    if len(convs) != 1:
        return False
    ((name, conv),) = convs.items()
    if conv.groups != 1 or any(cast(tuple[int, ...], conv.padding)):
        return False
    std_C = torch.tensor(preprocess.std, dtype=torch.float64)
    shift_C = (CENTRE / 255.0 - torch.tensor(preprocess.mean, dtype=torch.float64)) / std_C
    weight = conv.weight.detach().double()
    bias = (weight * shift_C[None, :, None, None]).sum(dim=(1, 2, 3))
    if conv.bias is not None:
        bias += conv.bias.detach().double()
    folded = nn.Conv2d(
        3, conv.out_channels, cast(Any, conv.kernel_size), cast(Any, conv.stride), dilation=cast(Any, conv.dilation)
    )
    folded.weight = nn.Parameter((weight / (255.0 * std_C[None, :, None, None])).float(), requires_grad=False)
    folded.bias = nn.Parameter(bias.float(), requires_grad=False)
    visual.set_submodule(name, folded)
    with torch.inference_mode():
        after_BD = image_features(visual, pixels_BCHW.float() - CENTRE)
    if differ(before_BD, after_BD):
        visual.set_submodule(name, conv)
        return False
    return True


class WideConv(nn.Module):
    """A convolution that stays in fp32 within a tower of another dtype: fp32 (B, C, H, W) in, that dtype out.

    On an even surface the rounded weights of the first convolution err by the same amount at every pixel, which no
    later sum evens out. Worst cosine over 400 emoji with clipmill-tiny in bf16: 0.9991, and 0.9998 with this.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv, self.dtype = conv, dtype

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return cast(Tensor, self.conv(pixels_BCHW)).to(self.dtype)


def widen_pixel_convs(visual: nn.Module, exact: dict[str, nn.Conv2d], dtype: torch.dtype) -> None:
    """Put the fp32 convolutions `exact`, copies made before the rounding, where `visual` meets its pixels."""
    for name, conv in exact.items():
        rounded = cast(nn.Conv2d, visual.get_submodule(name))
        visual.set_submodule(name, WideConv(conv.to(rounded.weight.device), dtype))


def pixel_convs(visual: nn.Module, preprocess: Preprocess) -> dict[str, nn.Conv2d]:
    """The convolutions that take the pixels themselves, by name: one as a rule, two side by side in MobileCLIP's stem.
    Empty where another kind of layer takes them too, so that they cannot all be given another dtype.
    """
    return pixels_met(visual, preprocess)[0]


def pixels_met(visual: nn.Module, preprocess: Preprocess) -> tuple[dict[str, nn.Conv2d], Tensor]:
    """`pixel_convs`, and the features of the probe that found them."""
    pixels_BCHW = normalise(probe_pixels(preprocess), preprocess)
    met: dict[str, nn.Module] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for name, module in visual.named_modules():
            if not any(module.children()):
                hooks.callback(module.register_forward_pre_hook(_note_pixels(name, pixels_BCHW, met)).remove)
        features_BD = image_features(visual, pixels_BCHW)
    convs = {name: module for name, module in met.items() if isinstance(module, nn.Conv2d)}
    return (convs if len(convs) == len(met) else {}), features_BD


def _note_pixels(name: str, pixels_BCHW: Tensor, met: dict[str, nn.Module]) -> Any:
    """A hook that enters its module into `met` if it is given the pixels, or a view of them."""

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].data_ptr() == pixels_BCHW.data_ptr():
            met[name] = module

    return note


def normalise(pixels_BCHW: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 0..255 to float32 with the model's mean and std."""
    mean = torch.tensor(preprocess.mean, device=pixels_BCHW.device)[:, None, None]
    std = torch.tensor(preprocess.std, device=pixels_BCHW.device)[:, None, None]
    return (pixels_BCHW.float() / 255.0 - mean) / std


def differ(expected_BD: Tensor, got_BD: Tensor) -> bool:
    scale = expected_BD.norm(dim=-1).clamp_min(1e-12)
    return bool(((expected_BD - got_BD).norm(dim=-1) / scale > _PROBE_TOLERANCE).any())
