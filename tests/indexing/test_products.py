"""Where partitions are trained and rows placed: by torch as by numpy, and who decides. The GPU's code runs on torch's
CPU here; `gpu` marks what needs a card."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import lance
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.indexing import on_device, plan, products
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.centroids import operations
from clipmill.jobs.indexing.kmeans import ITERATIONS, Floats, Held, OnCpu, train
from clipmill.jobs.indexing.on_device import NoUse, OnDevice
from clipmill.jobs.indexing.products import Products, worth_a_gpu
from clipmill.jobs.querying.curve import stored_report
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.schemas import installed
from tests.examples import examples
from tests.tables import TableOptions, append, make_table

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def by_torch(device: str = "cpu") -> Callable[[Floats], Held]:
    return lambda centroids_PD: OnDevice(centroids_PD, device)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def check_same(vectors_ND: Floats, centroids_PD: Floats, device: str) -> None:
    """The same partition, or one as near but for rounding; sums of what it says itself."""
    here, there = OnCpu(centroids_PD), OnDevice(centroids_PD, device)
    mine_N, its_N = here.nearest(vectors_ND), there.nearest(vectors_ND)
    assert its_N.dtype == np.int64
    score_NP = vectors_ND.astype(np.float64) @ centroids_PD.T.astype(np.float64)
    rows = np.arange(len(vectors_ND))
    scale_N = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
    assert (np.abs(score_NP[rows, mine_N] - score_NP[rows, its_N]) <= 1e-5 * scale_N).all()
    sums_PD, counts_P = there.sums(vectors_ND)
    np.testing.assert_array_equal(counts_P, np.bincount(its_N, minlength=len(centroids_PD)))
    expected_PD = np.zeros_like(centroids_PD, dtype=np.float64)
    np.add.at(expected_PD, its_N, vectors_ND)
    np.testing.assert_allclose(sums_PD, expected_PD, atol=1e-5 * max(1.0, scale_N.sum()))


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(("rows", "partitions", "dim"), [(4000, 300, 64), (700, 1, 8), (65, 64, 3), (0, 5, 16)])
def test_blocks_of_any_size_say_the_same(
    monkeypatch: pytest.MonkeyPatch, device: str, rows: int, partitions: int, dim: int
) -> None:
    monkeypatch.setattr(on_device, "_BLOCK_BYTES", 200_000)
    rng = np.random.default_rng(rows)
    centroids_PD = normalise(rng.standard_normal((partitions, dim), dtype=np.float32))
    check_same(rng.standard_normal((rows, dim), dtype=np.float32), centroids_PD, device)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 200),
    partitions=st.integers(1, 40),
    dim=st.integers(1, 40),
    zeros=st.integers(0, 20),
    copies=st.integers(1, 5),
    scale=st.sampled_from([1e-4, 1.0, 6e4]),
)
@examples(50)
def test_torch_and_numpy_place_rows_alike(
    seed: int, rows: int, partitions: int, dim: int, zeros: int, copies: int, scale: float
) -> None:
    """With vectors of zeros, rows that lie between equal centroids, and lengths that float16 can have."""
    rng = np.random.default_rng(seed)
    vectors_ND = scale * rng.standard_normal((rows, dim), dtype=np.float32)
    vectors_ND[:zeros] = 0
    centroids_PD = np.repeat(normalise(rng.standard_normal((partitions, dim), dtype=np.float32)), copies, axis=0)
    centroids_PD.flags.writeable = False  # as those are that a killed build left
    check_same(vectors_ND.astype(np.float32), centroids_PD, "cpu")


@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_training_finds_the_same_clusters_and_the_same_each_time(device: str) -> None:
    rng = np.random.default_rng(0)
    centres = normalise(rng.standard_normal((20, 32), dtype=np.float32))
    points = normalise(np.repeat(centres, 100, axis=0) + 0.05 * rng.standard_normal((2000, 32), dtype=np.float32))
    mine_PD, its_PD = train(points, 20, seed=4), train(points, 20, seed=4, hold=by_torch(device))
    np.testing.assert_allclose(its_PD, mine_PD, atol=5e-3)  # a point or two may lie between two of one cluster
    np.testing.assert_array_equal(its_PD, train(points, 20, seed=4, hold=by_torch(device)))


@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_a_partition_that_runs_empty_is_seeded_anew(device: str) -> None:
    """Four directions and a thousand copies of a fifth, of which the first centroids are nearly all."""
    rng = np.random.default_rng(1)
    few = normalise(rng.standard_normal((5, 16), dtype=np.float32))
    points = few[np.r_[np.zeros(1000, np.int64), 0:5]]
    found_PD = train(points, 12, hold=by_torch(device))
    np.testing.assert_allclose(np.linalg.norm(found_PD, axis=1), 1, atol=1e-5)
    assert len(np.unique(found_PD.round(3), axis=0)) == 12, "a centroid that nobody is near would stay as it was"


class Card(OnDevice):
    """A card's stand-in: torch's CPU, which has no memory left after so many questions."""

    left = 1_000_000
    given_back: ClassVar[list[int]] = []

    def __init__(self, centroids_PD: Floats, device: str) -> None:
        assert device == "card:0"
        super().__init__(centroids_PD, "cpu")

    def _nearest(self, block_BD: torch.Tensor) -> torch.Tensor:
        Card.left -= 1
        if Card.left < 0:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of"
            )
        return super()._nearest(block_BD)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> type[Card]:
    monkeypatch.setattr(Card, "left", 1_000_000)
    monkeypatch.setattr(Card, "given_back", given := [])
    monkeypatch.setattr(on_device, "OnDevice", Card)
    monkeypatch.setattr(on_device, "open_gpu", lambda: ("card:0", "a card"))
    monkeypatch.setattr(on_device, "give_back", lambda: given.append(1))
    monkeypatch.setattr(products, "has_gpu", lambda: True)
    monkeypatch.setattr(products, "_WORTH_S", 0.0)
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 64)
    return Card


@pytest.mark.parametrize("rows_per_segment", [None, 500])
@pytest.mark.parametrize("kind", ["ivf_rq", "hnsw_sq"])
def test_a_build_is_on_the_card_and_says_so(
    tmp_path: Path, card: type[Card], monkeypatch: pytest.MonkeyPatch, kind: str, rows_per_segment: int | None
) -> None:
    monkeypatch.setattr(plan, "HNSW_ROWS_PER_PARTITION", 300)
    uri = make_table(tmp_path, TableOptions(rows=600))
    append(uri, TableOptions(rows=600, start=600))
    options = IndexOptions(kind=kind, rows_per_segment=rows_per_segment)  # type: ignore[arg-type]
    told: list[str] = []
    report = build_index(uri, options, tell=told.append).vectors[0]
    assert "matrix products of the index are computed on a card" in told
    assert report.device == "a card"
    assert card.given_back, "of its memory whatever torch keeps"
    assert report.recall is not None
    assert report.recall.recall > 0.95
    dataset = lance.dataset(f"{uri}.lance")
    assert stored_report(dataset)["device"] == "a card"  # type: ignore[index]
    asked = 1_000_000 - card.left
    append(uri, TableOptions(rows=100, start=1200))
    extended = build_index(uri, options, tell=told.append).vectors[0]
    assert extended.done == "extended"
    assert (1_000_000 - card.left > asked) == (kind == "ivf_rq"), "rows that come later are placed there too"
    dataset = lance.dataset(f"{uri}.lance")
    stats = dataset.stats.index_stats("vector_idx")
    assert (stats["num_indexed_rows"], stats["num_unindexed_rows"]) == (1300, 0)


@pytest.mark.parametrize("questions", [3, ITERATIONS + 1])
def test_a_card_without_memory_is_one_sentence_and_the_cpu_goes_on(
    tmp_path: Path, card: type[Card], monkeypatch: pytest.MonkeyPatch, questions: int
) -> None:
    """In training, and while rows are placed."""
    monkeypatch.setattr(Card, "left", questions)
    uri = make_table(tmp_path, TableOptions(rows=600))
    append(uri, TableOptions(rows=600, start=600))
    told: list[str] = []
    report = build_index(uri, IndexOptions(kind="ivf_rq", rows_per_segment=500), tell=told.append).vectors[0]
    assert [line for line in told if "CPU goes on" in line] == [
        "the GPU is used no more, the CPU goes on: CUDA out of memory"
    ]
    assert report.device == "a card, then cpu"
    assert card.given_back == [1]
    assert report.recall is not None
    assert report.recall.recall > 0.95


def test_centroids_that_are_stored_are_those_that_placed_the_rows(tmp_path: Path, card: type[Card]) -> None:
    """Also where the card gave up in between: whatever rounds otherwise, search and rows go by the same numbers."""
    uri = make_table(tmp_path, TableOptions(rows=1200))
    card.left = ITERATIONS
    assert build_index(uri, IndexOptions(kind="ivf_rq")).vectors[0].device == "a card, then cpu"
    dataset = lance.dataset(f"{uri}.lance")
    stored = dataset.get_ivf_model("vector_idx").centroids
    centroids_PD = np.asarray(stored.flatten()).astype(np.float32).reshape(len(stored), -1)
    vectors_ND = as_rows(dataset.to_table(columns=["vector"])["vector"], centroids_PD.shape[1])
    sizes = np.bincount(OnCpu(centroids_PD).nearest(vectors_ND), minlength=len(stored))
    held = [part["size"] for part in dataset.stats.index_stats("vector_idx")["indices"][0]["partitions"]]
    assert np.abs(sizes - np.asarray(held)).sum() <= 4


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (NoUse("more than half of its memory is taken"), "the GPU is not used: more than half of its memory is taken"),
        (RuntimeError("CUDA driver too old. See a page\nand more"), "the GPU is not used: CUDA driver too old"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_sentence_and_asked_once(
    card: type[Card], monkeypatch: pytest.MonkeyPatch, why: Exception, said: str
) -> None:
    def refused() -> tuple[str, str]:
        raise why

    monkeypatch.setattr(on_device, "open_gpu", refused)
    told: list[str] = []
    used = Products()
    assert [used.hold(1e15, told.append) for _ in range(2)] == [OnCpu, OnCpu]
    assert told == [said]
    assert used.device == "cpu"


def test_torch_without_cuda_or_no_torch_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoUse, match="torch sees none"):
        on_device.open_gpu()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NoUse, match="torch is not installed"):
        on_device.open_gpu()


def test_a_torch_whose_libraries_cannot_be_loaded_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import raises OSError then, which a build would take for the table's."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NoUse, match="torch cannot be loaded: libcudart"):
        on_device.open_gpu()


def test_a_card_that_others_need_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (39, 80))
    with pytest.raises(NoUse, match="more than half"):
        on_device.open_gpu()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40, 80))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert on_device.open_gpu() == ("cuda:0", "a card")
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_only_long_builds_are_worth_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    million = operations(1_000_000, 512, 1000, train=True)
    assert 1.7e12 < million < 1.9e12  # some 33 s of a core
    assert worth_a_gpu(million, cores=2)
    assert not worth_a_gpu(million, cores=16)
    assert worth_a_gpu(operations(10_000_000, 512, 3162, train=True), cores=16)
    assert not worth_a_gpu(operations(10_000, 512, 1000, train=False), cores=1), "rows that came in a night"
    monkeypatch.setattr(products, "has_gpu", lambda: pytest.fail("nothing was worth it"))
    assert Products().hold(1.0, print) is OnCpu


@pytest.mark.parametrize(
    ("files", "visible", "there"),
    [
        (["nvidia0", "nvidiactl"], None, True),
        (["nvidia0"], "1", True),
        (["nvidia0"], "", False),
        (["nvidia0"], "-1", False),
        (["nvidiactl", "null"], None, False),
    ],
)
def test_a_card_is_seen_by_its_file_and_hidden_as_cuda_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], visible: str | None, there: bool
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(installed, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert installed.has_gpu() is there


def test_a_build_without_a_card_imports_no_torch(tmp_path: Path) -> None:
    """However long it is: to import it would take seconds."""
    uri = make_table(tmp_path, TableOptions(rows=600))
    code = (
        "import sys; from clipmill.jobs.indexing import build, products; products._WORTH_S = 0.0;"
        f"report = build.build_index({uri!r}, build.IndexOptions(kind='ivf_rq'));"
        "assert report.vectors[0].done == 'built'; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n", done.stderr


@pytest.mark.gpu
def test_on_a_card_centroids_and_partitions_are_those_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    free_before, _ = torch.cuda.mem_get_info(0)
    device, name = on_device.open_gpu()
    assert name
    rng = np.random.default_rng(0)
    centres = normalise(rng.standard_normal((1500, 512), dtype=np.float32))
    kind_S = rng.integers(0, len(centres), 64_000)
    sample_SD = normalise(centres[kind_S] + 0.02 * rng.standard_normal((64_000, 512), dtype=np.float32))
    centroids_PD = train(sample_SD, 1000, hold=by_torch(device))
    check_same(sample_SD[:8192], centroids_PD, device)
    mine_N = OnCpu(centroids_PD).nearest(sample_SD)
    assert (OnDevice(centroids_PD, device).nearest(sample_SD) != mine_N).mean() < 1e-3
    assert torch.cuda.max_memory_allocated() < 1e9
    on_device.give_back()
    assert torch.cuda.mem_get_info(0)[0] > free_before - 1e9
