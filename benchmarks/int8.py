"""What int8 would gain on this processor, and what it would cost in likeness: a trial, which no job can ask for.

    python -m benchmarks.int8 [--rounds 5] [--pictures 96] [--out benchmarks/results]

The towers of the bf16 road, with int8 products (torch.ops.onednn.qlinear_pointwise) for packed bf16 ones. Weights have
a scale for each output channel. Activations have, by `--forms`:

static  one scale a layer, found on the bundled pictures and texts of the self-check. The GELU of an MLP and the
        rounding of what it gives are a part of its first product.
token   one scale for each token, found anew in every call.
mixed   static with a margin behind the norms (queries, keys and values; the first layer of an MLP), token elsewhere.

`--keep N`: the last N blocks stay bf16. Speed is CPU time of one thread, bf16 and int8 in turn. Likeness is the least
cosine to fp32 over real photographs, drawings and emoji, and over captions; the bundled pictures are not among them.

N rows, I and O features in and out.
"""

import argparse
import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import decode, machine, pictures
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.pack import PackedLinear

FORMS = ("static", "token", "mixed")
WEIGHTS = "no published weights were at hand: ViT-B-32 has random ones made sensitive, clipmill-tiny is trained"
_BEHIND_A_NORM = ("_qkv", "attend.q", "attend.kv", "c_fc")
_MARGIN = 1.25  # of `mixed`, over the range that the bundled pictures have
_ZERO = 128  # oneDNN multiplies uint8 with int8 fast, and int8 with int8 by plain loops


class Int8Linear(nn.Module):
    """In the place of a PackedLinear. It computes in bf16 and notes the range of its input, until `freeze`."""

    def __init__(self, packed: PackedLinear, *, by_token: bool, margin: float) -> None:
        super().__init__()
        self.bf16, self.by_token, self.margin = packed, by_token, margin
        self.weight, self.bias = packed.weight, packed.bias  # open_clip asks a projection for them
        self.least, self.greatest, self.frozen = 0.0, 1e-6, False
        self.feeds: Int8Linear | None = None  # the layer that takes this one's output as uint8
        self.fed = False

    def freeze(self) -> None:
        weight_OI = cast(Tensor, self.bf16._packed).to_dense().float()
        self.scale_O = weight_OI.abs().amax(1) / 127
        rounded_OI = (weight_OI / self.scale_O[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded_OI, [1600, weight_OI.shape[1]])
        self.zero_O = torch.zeros(len(weight_OI), dtype=torch.int32)
        self.bias_O = None if self.bias is None else self.bias.float()
        if self.fed:  # behind a GELU, which gives little under zero
            self.scale = (self.greatest - self.least) / 255
            self.zero = round(-self.least / self.scale)
        else:
            self.scale, self.zero = self.margin * max(-self.least, self.greatest) / 127, _ZERO
        self.frozen = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            self.least, self.greatest = min(self.least, float(x.min())), max(self.greatest, float(x.max()))
            return cast(Tensor, self.bf16(x))
        return self._by_token(x) if self.by_token else self._static(x)

    def _static(self, x: Tensor) -> Tensor:
        if not self.fed:
            x = _uint8(x.float().mul_(1 / self.scale).round_().clamp_(-128, 127))
        kind, algorithm = self.bf16._after
        if self.feeds is None:
            return self._product(x, self.scale, self.bias_O, 1.0, 0, torch.bfloat16, kind, [], algorithm)
        fed = self.feeds
        return self._product(x, self.scale, self.bias_O, fed.scale, fed.zero, torch.uint8, kind, [], algorithm)

    def _by_token(self, x: Tensor) -> Tensor:
        scale_N1 = x.abs().amax(-1, keepdim=True).float().clamp_(min=1e-6) / 127
        y = self._product(_uint8(x.float().div_(scale_N1).round_()), 1.0, None, 1.0, 0, torch.float32, "none", [], "")
        y = y.mul_(scale_N1) if self.bias_O is None else torch.addcmul(self.bias_O, y, scale_N1)
        kind, algorithm = self.bf16._after
        y = y.to(torch.bfloat16)
        return {"gelu": lambda: F.gelu(y, approximate=algorithm), "swish": lambda: F.silu(y), "none": lambda: y}[kind]()

    def _product(self, x: Tensor, scale: float, bias: Tensor | None, *rest: Any) -> Tensor:
        zero = _ZERO if self.by_token else self.zero
        product = torch.ops.onednn.qlinear_pointwise
        return cast(Tensor, product(x, scale, zero, self.packed, self.scale_O, self.zero_O, bias, *rest))


def _uint8(rounded: Tensor) -> Tensor:
    """Whole numbers from -128 to 127, with 128 added; by way of int8, which torch converts to fast."""
    return rounded.to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)


def to_int8(root: nn.Module, form: str, keep: int, probe: Callable[[], Any]) -> dict[str, int]:
    """Make the linear layers of `root` int8, but for those of its last `keep` blocks. `probe` computes features of
    the bundled pictures or texts with it."""
    packed = [(name, module) for name, module in root.named_modules() if type(module) is PackedLinear]
    number = {name: int(found[1]) for name, _ in packed if (found := re.search(r"resblocks\.(\d+)\.", name))}
    first_kept = max(number.values(), default=-1) + 1 - keep
    made = []
    for name, module in packed:
        if number.get(name, -1) < first_kept:
            by_token = form == "token" or (form == "mixed" and not name.endswith(_BEHIND_A_NORM))
            made.append(Int8Linear(module, by_token=by_token, margin=_MARGIN if form == "mixed" else 1.0))
            parent, _, last = name.rpartition(".")
            setattr(root.get_submodule(parent), last, made[-1])
    for chain in (module for module in root.modules() if type(module) is nn.Sequential):
        for one, two in itertools.pairwise(child for child in chain if type(child) is not nn.Identity):
            if isinstance(one, Int8Linear) and isinstance(two, Int8Linear) and not (one.by_token or two.by_token):
                one.feeds, two.fed = two, True
    with torch.inference_mode():
        probe()
    for layer in made:
        layer.freeze()
    return {"int8": len(made), "of": len(packed)}


def engine_of(spec: ModelSpec) -> Any:
    from clipmill.workers.load import load_engine

    return load_engine(spec, device="cpu", threads=1)


def int8_engine(spec: ModelSpec, form: str, keep: int) -> tuple[Any, dict[str, Any]]:
    engine = engine_of(spec)
    images, model = engine._parts.image_tower.visual, engine._parts.text_tower.model
    bundled = list(selfcheck.pictures().values())
    layers = {"image": to_int8(images, form, keep, lambda: images_of(engine, bundled))}
    model.visual = nn.Identity()  # it is done; the image tower itself holds it
    layers["text"] = to_int8(model, form, keep, lambda: engine.encode_texts(list(selfcheck.TEXTS)))
    return engine, layers


# --- likeness ---------------------------------------------------------------------------------------------------------


def shown(count: int) -> dict[str, list[bytes]]:
    """Real pictures by kind, at most `count` of each, evenly from all."""
    photos = pictures.photographs()
    root = photos[0].parents[2]
    drawings = [*(root / "bad_inputs/pillow").glob("*imagedraw*.png"), *(root / "exif_orientation").glob("*.jpg")]
    found = {"photographs": photos, "drawings": sorted(drawings), "emoji": sorted((root / "emoji").glob("*.png"))}
    return {
        kind: [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]
        for kind, paths in found.items()
        if paths
    }


def batches(rows: Sequence[Any], size: int = 32) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def pixels_of(engine: Any, images: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.stack([engine.prepare(image, Limits()).pixels_CHW for image in images])


def images_of(engine: Any, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
    return np.concatenate([engine.encode_images(pixels_of(engine, part)) for part in batches(images)])


def vectors(engine: Any, kinds: dict[str, list[bytes]], texts: list[str]) -> dict[str, Any]:
    return {
        **{kind: images_of(engine, images) for kind, images in kinds.items()},
        "captions": engine.encode_texts(texts),
    }


def likeness(expected: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    cosines = {kind: (expected[kind] * got[kind]).sum(axis=1) for kind in expected}
    return {
        kind: {"least": round(float(of.min()), 5), "median": round(float(np.median(of)), 5), "of": len(of)}
        for kind, of in cosines.items()
    }


# --- speed ------------------------------------------------------------------------------------------------------------


def cpu_ms(engine: Any, jpegs: list[bytes], texts: list[str]) -> dict[str, float]:
    """Of one sample, with one thread."""
    clock = [time.process_time()]
    pixels_BCHW = pixels_of(engine, jpegs)
    clock.append(time.process_time())
    engine.encode_images(pixels_BCHW)
    clock.append(time.process_time())
    engine.encode_texts(texts)
    clock.append(time.process_time())
    spent = [later - earlier for earlier, later in itertools.pairwise(clock)]
    return {
        "decode": 1000 * spent[0] / len(jpegs),
        "image": 1000 * spent[1] / len(jpegs),
        "text": 1000 * spent[2] / len(texts),
    }


def speed(bf16: Any, int8: Any, rounds: int, *inputs: Any) -> dict[str, Any]:
    """Medians, and bf16 over int8: of the towers, of decoding and both, and of these with int8 images alone."""
    for engine in (bf16, int8):
        cpu_ms(engine, *inputs)  # the first calls choose kernels
    pairs = [(cpu_ms(bf16, *inputs), cpu_ms(int8, *inputs)) for _ in range(rounds)]
    ratios = {
        "image": [a["image"] / b["image"] for a, b in pairs],
        "text": [a["text"] / b["text"] for a, b in pairs],
        "all": [sum(a.values()) / sum(b.values()) for a, b in pairs],
        "all, texts in bf16": [sum(a.values()) / (a["decode"] + b["image"] + a["text"]) for a, b in pairs],
    }
    return {
        "cpu_ms": {
            name: {tower: round(median(pair[at][tower] for pair in pairs), 2) for tower in ("decode", "image", "text")}
            for at, name in enumerate(("bf16", "int8"))
        },
        "bf16_over_int8": {
            name: {"median": round(median(of), 2), "all": [round(x, 2) for x in of]} for name, of in ratios.items()
        },
    }


def trial(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    kinds = shown(options.pictures)
    jpegs = decode.small(pictures.photographs(), 32)
    random = np.random.default_rng(1)
    texts = [pictures.caption(number, random) for number in range(64)]
    checkpoint = decode.sensitive(name, jpegs, folder)
    spec = ModelSpec(name=name, pretrained=checkpoint, precision="bf16", activation="gelu" if checkpoint else None)
    expected = vectors(engine_of(replace(spec, precision="fp32")), kinds, texts)
    bf16 = engine_of(spec)
    result: dict[str, Any] = {"bf16": {"cosine": likeness(expected, vectors(bf16, kinds, texts))}}
    for form, keep in itertools.product(options.forms, options.keep):
        int8, layers = int8_engine(spec, form, keep)
        result[f"{form}, last {keep} in bf16"] = {
            "layers": layers,
            "cosine": likeness(expected, vectors(int8, kinds, texts)),
            **speed(bf16, int8, options.rounds, jpegs, texts),
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=96, help="of each kind, at most")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "clipmill-tiny"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--keep", nargs="+", type=int, default=[0], help="last blocks that stay bf16")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: trial(name, options, Path(folder)) for name in options.models}
    result = {"at": machine.now(), "machine": machine.machine(), "weights": WEIGHTS, "cases": cases}
    print(json.dumps(result, indent=1))
    if options.out is not None:
        machine.save(machine.dated(options.out, "int8"), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
