"""Train clipmill-tiny from nothing: ``python -m training.train --out DIR``.

Draws the pictures (``training.data``), trains both towers with open_clip's ClipLoss, and writes the model and its
log to DIR. Each picture meets two texts per step: a sentence about the whole scene, and a short text about one
facet, so that short zero-shot prompts are not a foreign language.

Shapes: B pictures per batch (B / 2 pairs of twins), L tokens, C H W.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipmill.jobs.demo.scene_types import STYLES
from training.data import DataSpec, build, load
from training.model import PREPROCESS_CFG, encode_text, new_model, resume, save

LOG_EVERY, SAVE_EVERY = 25, 50


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything the weights depend on besides the pictures.

    minutes: wall clock after which the learning rate has reached zero even if ``steps`` are not done (0: no limit).
    group: pairs of one cell that are put into a batch together.
    easy_steps: so many first steps draw their batches at random. From the hard batches alone a new model learns almost
        nothing: its loss was 4.3 after 375 steps, where random ones reach 1.1 in 275.
    grey_every: every so many steps the batch has no colour, and no text of it names one. Without them a model learns
        that a kind never has the colours which training withholds from it, and misses kinds in those colours.
    styles: of the pictures drawn, those with one of these styles are used.
    """

    steps: int = 3600
    batch: int = 384
    rate: float = 1.2e-3
    warmup: int = 40
    weight_decay: float = 0.1
    partial_weight: float = 1.0
    group: int = 16
    easy_steps: int = 300
    grey_every: int = 4
    minutes: float = 0.0
    seed: int = 7
    styles: tuple[str, ...] = STYLES


def rate_at(progress: float, step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to zero at progress 1."""
    return recipe.rate * min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizer_for(model: CLIP, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; gains, biases, embeddings of position and the temperature do not decay (as in open_clip's training)."""
    kept = [p for p in model.parameters() if p.ndim < 2]
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def pixels_from(images_NHWC: NDArray[np.uint8], rng: np.random.Generator, *, grey: bool = False) -> Tensor:
    """Normalised (B, 3, 64, 64), channels last, with a little jitter of light and colour; or grey.

    No flips, shifts or crops: left and right have meaning here, and a wrong crop downstream should hurt. Each grey
    picture mixes its channels in its own shares, so that no two colours look alike in all of them.
    """
    mean = torch.tensor(PREPROCESS_CFG["mean"]) * 255
    std = torch.tensor(PREPROCESS_CFG["std"]) * 255
    number = len(images_NHWC)
    gain = torch.from_numpy(rng.normal(1.0, 0.06, (number, 1, 1, 1)) * rng.normal(1.0, 0.02, (number, 1, 1, 3)))
    shift = torch.from_numpy(rng.normal(0.0, 5.0, (number, 1, 1, 1)))
    pixels_BHWC = torch.from_numpy(images_NHWC).float() * gain.float() + shift.float()
    if grey:
        shares_B13 = torch.from_numpy(rng.dirichlet((1.0, 1.0, 1.0), (number, 1))).float()
        pixels_BHWC = torch.einsum("bhwc,bic->bhwi", pixels_BHWC, shares_B13).expand_as(pixels_BHWC)
    return ((pixels_BHWC.clamp(0, 255) - mean) / std).permute(0, 3, 1, 2)


def tokens_from(tokens_NKL: NDArray[np.uint16], words: Tensor, rng: np.random.Generator) -> Tensor:
    """One of the K texts of each picture, (B, L), as row numbers of the word table: the order of tokens is kept."""
    chosen = tokens_NKL[np.arange(len(tokens_NKL)), rng.integers(tokens_NKL.shape[1], size=len(tokens_NKL))]
    return torch.searchsorted(words, torch.from_numpy(chosen.astype(np.int64)))


def batches(cell: NDArray[np.int64], lined: NDArray[np.bool_], recipe: Recipe) -> NDArray[np.int64]:
    """The rows of every step, epoch after epoch: (steps, B), twins together, and with them pairs of the same cell.

    With batches drawn at random, colours and backgrounds alone tell most captions apart and the kinds of things are
    never learned: after 300 steps recall was 0.93, but zero-shot object accuracy 0.09. Within a cell they do not help.
    Scenes of different things in a line, which alone teach what belongs to what, come twice per epoch.
    """
    rng = np.random.default_rng(recipe.seed)
    pairs = recipe.batch // 2
    epochs = math.ceil(recipe.easy_steps * pairs / len(cell))
    easy = np.concatenate([np.zeros(0, np.int64), *(rng.permutation(len(cell)) for _ in range(epochs))])
    found = easy[: recipe.easy_steps * pairs]
    while len(found) < recipe.steps * pairs:
        passes = (_groups(np.arange(len(cell)), cell, recipe, rng), _groups(np.flatnonzero(lined), cell, recipe, rng))
        found = np.concatenate([found, rng.permutation(np.concatenate(passes)).ravel()])
    first = found[: recipe.steps * pairs].reshape(recipe.steps, pairs) * 2
    return np.stack([first, first + 1], axis=2).reshape(recipe.steps, recipe.batch)


def _groups(
    pairs: NDArray[np.int64], cell: NDArray[np.int64], recipe: Recipe, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The pairs cut into groups of one cell (but for the seams): (groups, recipe.group)."""
    mixed = rng.permutation(pairs)
    grouped = mixed[np.argsort(cell[mixed], kind="stable")]
    return grouped[: len(grouped) // recipe.group * recipe.group].reshape(-1, recipe.group)


def _average(model: CLIP, elapsed: float, ranks: int) -> float:
    """Make every gradient, and the clock, the mean over the processes, in one exchange."""
    if ranks == 1:
        return elapsed
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(grad.reshape(-1) for grad in grads), torch.tensor([elapsed])])
    torch.distributed.all_reduce(flat)
    flat /= ranks
    start = 0
    for grad in grads:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad))
        start += grad.numel()
    return float(flat[-1])


def _remember_statistics(model: CLIP, on: bool) -> None:
    """Whether BatchNorm takes the batch into the statistics that the finished model will use."""
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1 if on else 0.0


def _loss(model: CLIP, losses: ClipLoss, pixels: Tensor, whole: Tensor, short: Tensor) -> tuple[Tensor, Tensor]:
    """Contrastive loss of the pictures against the whole sentences and against the short texts."""
    # The fused attention's backward pass is slower than the plain one on a CPU: a quarter of the step.
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        seen = model.encode_image(pixels, normalize=True).float()
        said, hinted = encode_text(model, whole).float(), encode_text(model, short).float()
    scale = model.logit_scale.exp()
    return losses(seen, said, scale), losses(seen, hinted, scale)


def train(rank: int, ranks: int, recipe: Recipe, folder: Path, out: Path) -> None:
    """One process of the loop. The first process writes the log as it goes, and the model every 50 steps and at the
    end; a run that was stopped is taken up from there (with a new warm-up, since Adam's memory is not kept).

    Processes of one thread each that meet once per step are twice as fast as one process of two threads, and on a
    busy machine ten times: threads that wait for each other inside every convolution do not share a core well.
    """
    torch.set_num_threads(1)
    if ranks > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=ranks)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 1, rank])
    data = load(folder, recipe.styles)
    words = torch.from_numpy(
        np.unique(np.concatenate([data[name].ravel() for name in ("full", "partial", "shape")])).astype(np.int64)
    )
    model = new_model(words)
    step, before = resume(model, words, out)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = optimizer_for(model, recipe)
    losses = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=ranks)
    rows = batches(data["cell"], data["lined"], recipe).reshape(recipe.steps, ranks, -1)[:, rank]
    log = Log(out, recipe, len(data["images"]), step) if rank == 0 else None
    began, first, progress = time.time() - before, step, step / recipe.steps
    while step < recipe.steps and progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, step - first, recipe)
        easy = step < recipe.easy_steps
        grey = not easy and step % recipe.grey_every == recipe.grey_every - 1
        pixels = pixels_from(data["images"][rows[step]], rng, grey=grey)
        whole = tokens_from(data["shape" if grey else "full"][rows[step]], words, rng)
        short = tokens_from(data["shape" if step % 2 and not easy else "partial"][rows[step]], words, rng)
        _remember_statistics(model, not grey)
        full, partial = _loss(model, losses, pixels, whole, short)
        (full + recipe.partial_weight * partial).backward()
        elapsed = _average(model, time.time() - began, ranks)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        progress = max(step / recipe.steps, elapsed / 60 / recipe.minutes if recipe.minutes else 0.0)
        if log is not None:
            if step % LOG_EVERY == 0 or progress >= 1:
                rate = optimizer.param_groups[0]["lr"]
                log.write(step, full.item(), partial.item(), model.logit_scale.exp().item(), rate, elapsed)
            if step % SAVE_EVERY == 0 or progress >= 1:
                save(model, words, out, step=step, seconds=elapsed)


class Log:
    """``training_log.jsonl``: the recipe, then one line every so many steps, also printed."""

    def __init__(self, out: Path, recipe: Recipe, pictures: int, step: int) -> None:
        self.file = (out / "training_log.jsonl").open("a")
        self.batch = recipe.batch
        self._put({"recipe": asdict(recipe), "from_step": step, "pictures": pictures, "torch": torch.__version__})

    def write(self, step: int, full: float, partial: float, scale: float, rate: float, elapsed: float) -> None:
        self._put(
            {
                "step": step,
                "loss_full": round(full, 4),
                "loss_partial": round(partial, 4),
                "scale": round(scale, 2),
                "rate": round(rate, 6),
                "seconds": round(elapsed, 1),
                "images_per_s": round(step * self.batch / elapsed, 1),
            }
        )

    def _put(self, line: dict[str, object]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for model, config and log")
    parser.add_argument("--data", type=Path, help="folder for the drawn pictures (default: OUT/pictures)")
    parser.add_argument("--number", type=int, default=48_000, help="pictures to draw")
    parser.add_argument("--hold-out", nargs="*", default=[], choices=STYLES, help="styles the model never sees")
    parser.add_argument("--processes", type=int, default=2, help="for drawing and for training")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop by then, with the schedule adapted")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    args = parser.parse_args()
    styles = tuple(style for style in STYLES if style not in args.hold_out)
    folder = args.data or args.out / "pictures"
    args.out.mkdir(parents=True, exist_ok=True)
    build(DataSpec(number=args.number, seed=args.seed), folder, args.processes)
    recipe = Recipe(steps=args.steps, minutes=args.minutes, seed=args.seed, styles=styles, rate=args.rate)
    (args.out / "meet").unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=train, args=(rank, args.processes, recipe, folder.resolve(), args.out.resolve()))
        for rank in range(args.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, "a training process failed; its traceback is above"


if __name__ == "__main__":
    main()
