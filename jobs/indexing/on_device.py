"""The products of `kmeans` by torch, on a GPU; `products` decides when.

Why not Lance's own `accelerator="cuda"`, by its code (13.0.0): `create_index` takes it for IVF_PQ alone. Of its parts
by themselves, training and placing take no fragments, so that no segment could have its own; float16 stays float16 in
distances and centroids; placing turns TF32 on for the whole process; and `torch.compile` has to compile the distances
first.

N: vectors. B: those of a block. P: partitions. D: dimension.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from clipmill.jobs.indexing.kmeans import Floats, Places

if TYPE_CHECKING:
    import torch

_BLOCK_BYTES = 256_000_000  # of a block's rows and products; what says which is nearest is as large once more


class NoUse(RuntimeError):
    """Why a GPU that is there is not used."""


def open_gpu() -> tuple[str, str]:
    """The device's name for torch, and its maker's. It is the first that CUDA_VISIBLE_DEVICES leaves. Raises NoUse, and
    what torch raises."""
    try:
        import torch
    except ImportError as error:
        raise NoUse("torch is not installed") from error
    except OSError as error:  # a library of CUDA's that torch brings, or looks for, cannot be loaded
        raise NoUse(f"torch cannot be loaded: {error}") from error
    if not torch.cuda.is_available():
        raise NoUse("torch sees none that it can use")
    free, total = torch.cuda.mem_get_info(0)
    if 2 * free < total:  # a job of somebody's, which may want the rest as well
        raise NoUse("more than half of its memory is taken")
    torch.backends.cuda.matmul.allow_tf32 = False  # ten bits would put rows between two partitions into either
    return "cuda:0", torch.cuda.get_device_name(0)


def give_back() -> None:
    """The device's memory that torch keeps for the next block."""
    import torch

    torch.cuda.empty_cache()


class OnDevice:
    """Unit centroids (P, D) on a device of torch, float32. Beside them and as many sums it takes some blocks there,
    however many vectors there are. The same for the same vectors on the same card: nothing is added in an order that
    the card chooses."""

    def __init__(self, centroids_PD: Floats, device: str) -> None:
        self._device = device
        self._centroids_PD = self._put(centroids_PD)

    def nearest(self, vectors_ND: Floats) -> Places:
        nearest_N = np.empty(len(vectors_ND), dtype=np.int64)
        for part in self._blocks(len(vectors_ND)):
            nearest_N[part] = self._nearest(self._put(vectors_ND[part])).cpu().numpy()
        return nearest_N

    def sums(self, vectors_ND: Floats) -> tuple[Floats, Places]:
        import torch

        num_partitions = len(self._centroids_PD)
        sums_PD = torch.zeros_like(self._centroids_PD)
        counts_P = torch.zeros(num_partitions, dtype=torch.int64, device=self._device)
        for part in self._blocks(len(vectors_ND)):
            block_BD = self._put(vectors_ND[part])
            nearest_B = self._nearest(block_BD)
            is_of_BP = torch.zeros(len(block_BD), num_partitions, device=self._device)
            is_of_BP.scatter_(1, nearest_B[:, None], 1.0)
            sums_PD.addmm_(is_of_BP.T, block_BD)  # index_add_ adds in another order each time
            counts_P += torch.bincount(nearest_B, minlength=num_partitions)
        return sums_PD.cpu().numpy(), counts_P.cpu().numpy()

    def _nearest(self, block_BD: "torch.Tensor") -> "torch.Tensor":
        return (block_BD @ self._centroids_PD.T).argmax(dim=1)

    def _put(self, rows: Floats) -> "torch.Tensor":
        import torch

        return torch.from_numpy(np.require(rows, requirements="W")).to(
            self._device
        )  # torch warns of what it may not write

    def _blocks(self, count: int) -> Iterator[slice]:
        step = max(64, _BLOCK_BYTES // (4 * sum(self._centroids_PD.shape)))
        return (slice(start, start + step) for start in range(0, count, step))
