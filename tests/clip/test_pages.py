"""A checkpoint that lies mapped in memory leaves it page by page, and stays what it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clipmill.workers.clip.load import own_weights
from clipmill.workers.clip.pages import FilePages

MANY = 4_000_000  # floats: 16 MB


def resident_kb(path: Path) -> int:
    """Of the pages of a file that are mapped here."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        int(next(one for one in lines if one.startswith("Rss:")).split()[1]) for line in lines if str(path) in line
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({name: torch.full((MANY,), value) for name, value in (("a", 1.0), ("b", 2.0))}, path)
    return path


def test_pages_that_are_let_go_are_read_again(file: Path) -> None:
    mapped = load_file(file)
    pages = FilePages(file, mapped.values())
    assert [float(mapped[name].sum()) for name in "ab"] == [MANY, 2 * MANY]
    assert resident_kb(file) > 30_000
    pages.let_go([mapped["a"]])
    assert 15_000 < resident_kb(file) < 17_000
    pages.let_go()
    assert resident_kb(file) < 1_000
    assert [float(mapped[name].sum()) for name in "ab"] == [MANY, 2 * MANY]


def test_memory_that_is_no_file_is_left_alone(file: Path) -> None:
    mapped, own = load_file(file), torch.full((MANY,), 3.0)
    FilePages(file, [own, *mapped.values()]).let_go([own])
    FilePages(None, [own]).let_go([own, mapped["a"]])
    assert float(own.sum()) == 3 * MANY


def test_where_the_file_was_nothing_else_is_let_go_of(file: Path) -> None:
    """Its place in memory is given to another when it is unmapped, which it is not as long as its pages are known."""
    mapped = load_file(file)
    pages = FilePages(file, mapped.values())
    del mapped
    own = [torch.full((MANY,), 3.0) for _ in range(8)]
    pages.let_go()
    pages.let_go(own)
    assert [float(values.sum()) for values in own] == [3 * MANY] * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_copied_or_converted_out_of_its_file(file: Path, dtype: torch.dtype) -> None:
    mapped = load_file(file)
    model = nn.ParameterDict({name: nn.Parameter(values, requires_grad=False) for name, values in mapped.items()})
    model.register_buffer("ids", torch.arange(3))
    model["a"].data.mul_(4)  # as folding does
    own_weights(model, FilePages(file, mapped.values()), dtype)
    assert resident_kb(file) < 1_000
    assert (model["a"].dtype, model.ids.dtype) == (dtype, torch.int64)
    assert [float(model[name][0]) for name in "ab"] == [4.0, 2.0]
