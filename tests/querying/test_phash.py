"""Search and copies by perceptual hash, against comparing each with each."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clipmill.jobs.cli import main as cli
from clipmill.jobs.exploring.dedup import dedup, keep_list
from clipmill.jobs.querying.open import Examples, Table, open_table
from clipmill.jobs.selecting.select import select
from clipmill.schemas.columns import PHASH
from clipmill.schemas.errors import EXIT_USER, UserError
from clipmill.schemas.job.config import Limits
from clipmill.workers.stub import StubEngine
from tests.build import picture
from tests.served import running
from tests.tables import TableOptions, batch, make_table

ROWS = 400
FLAT = 1 << 63


def flipped(value: int, *bits: int) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


@pytest.fixture(scope="module")
def hashes() -> list[int]:
    """Unsigned. 10 to 14 go from row 5 in steps of three bits; 20 equals 19; 30 and 31 are of flat pictures; 7 has
    none, which is 0 here."""
    rng = np.random.default_rng(3)
    made = [int(value) for value in rng.integers(0, 2**64, ROWS, dtype=np.uint64)]
    for n in range(10, 15):
        made[n] = flipped(made[n - 1 if n > 10 else 5], 3 * n, 3 * n + 1, 3 * n + 2)
    made[20], made[30], made[31], made[7] = made[19], FLAT, FLAT, 0
    return made


@pytest.fixture(scope="module")
def table(hashes: list[int], tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("phash")
    rows = batch(TableOptions(rows=ROWS, noise=3.0))
    place = rows.schema.get_field_index("image_hash")
    rows = rows.set_column(place, rows.schema.field(place), [[f"{n:032x}" for n in range(ROWS)]])
    signed: list[int | None] = [value - 2**64 if value >= 2**63 else value for value in hashes]
    signed[7] = None
    rows = rows.append_column(PHASH, pa.array(signed, PHASH.type))
    lance.write_dataset(rows, folder / "images.lance", enable_stable_row_ids=True, max_rows_per_file=150)
    return open_table(str(folder / "images"))


def ids(*numbers: int) -> list[str]:
    return [f"row-{n:06d}" for n in numbers]


@pytest.mark.parametrize("max_distance", [0, 3, 9, 25, 40])
def test_a_search_finds_what_comparing_each_finds(table: Table, hashes: list[int], max_distance: int) -> None:
    expected = sorted(
        ((hashes[5] ^ value).bit_count(), f"row-{n:06d}")
        for n, value in enumerate(hashes)
        if n not in (5, 7) and (hashes[5] ^ value).bit_count() <= max_distance
    )
    found = table.search_phash("row-000005", max_distance=max_distance, k=20, columns="id")
    assert list(zip(found["phash_distance"].to_pylist(), found["id"].to_pylist(), strict=True)) == expected[:20]
    rest = table.search_phash(hashes[5], max_distance=max_distance, k=20, offset=21, columns="id")  # with itself
    assert rest["id"].to_pylist() == [row_id for _, row_id in expected[20:40]]


def test_filters_and_every_way_to_name_a_hash(table: Table, hashes: list[int]) -> None:
    for asked in (hashes[19], hashes[19] - 2**64 if hashes[19] >= 2**63 else hashes[19], f"{hashes[19]:016x}"):
        assert table.search_phash(asked, max_distance=0, columns="id")["id"].to_pylist() == ids(19, 20)
    assert table.search_phash(hashes[19], where="id <> 'row-000019'", columns="id")["id"].to_pylist() == ids(20)


def test_a_hash_is_taken_as_a_search_prints_it(table: Table, hashes: list[int]) -> None:
    number = hashes[5] - (1 << 64) if hashes[5] >= 1 << 63 else hashes[5]
    wanted = table.search_phash(hashes[5], max_distance=3)["id"].to_pylist()
    assert wanted
    for text in (f"{number:,}", str(number)):
        assert table.search_phash(text, max_distance=3)["id"].to_pylist() == wanted


def test_a_picture_finds_its_row_whatever_it_is_given_as(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = StubEngine.from_name("stub")
    made = [engine.prepare(picture(n, size_HW=(90, 120)), Limits(), phash=True).phash for n in range(12)]
    rows = batch(TableOptions(rows=12)).append_column(PHASH, pa.array(made, PHASH.type))
    lance.write_dataset(rows, tmp_path / "images.lance", enable_stable_row_ids=True)
    table = open_table(str(tmp_path / "images"))
    half = Image.open(io.BytesIO(picture(4, size_HW=(90, 120)))).resize((60, 45))
    out = io.BytesIO()
    half.save(out, "WEBP", quality=80)
    (tmp_path / "half.webp").write_bytes(out.getvalue())
    for given in (out.getvalue(), half, str(tmp_path / "half.webp"), tmp_path / "half.webp"):
        assert table.search_phash(given, columns="id")["id"].to_pylist()[0] == "row-000004"
    assert cli.run(["search", table.uri, "--phash-of", str(tmp_path / "half.webp"), "--json"]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)
    assert (first["id"], first["phash_distance"] <= 8) == ("row-000004", True)


def test_copies_over_http_are_of_a_row_and_never_of_a_file(table: Table, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1, kind="PNG"))
    with running(table) as base, httpx.Client(base_url=base, timeout=30) as client:
        found = client.get("/api/copies", params={"id": "row-000019", "max_distance": 0}).json()
        assert [(hit["id"], hit["phash_distance"]) for hit in found["hits"]] == [("row-000020", 0)]
        for other in (str(tmp_path / "a.png"), "0" * 16):
            answer = client.get("/api/copies", params={"id": other})
            assert (answer.status_code, answer.json()["error"]) == (400, f"there is no row with id {other!r}")


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ("row-000007", {}, "the row 'row-000007' has no perceptual hash"),
        ("nowhere.jpg", {}, "'nowhere.jpg' is no id of a row and no file"),
        (2**64, {}, "more than 64 bits"),
        (b"no picture", {}, "cannot be"),
        (Examples(ids=("row-000001", "row-000002")), {}, "one id and nothing else"),
        (Examples(texts=("a shoe",)), {}, "one id and nothing else"),
        (Examples(), {}, "one id and nothing else"),
        ([1, 2], {}, "a query image is a list"),
        (np.array([1, 2], np.uint64), {}, "a query image is a ndarray"),
        (True, {}, "a query image is a bool"),
        ("row-000001", {"max_distance": 65}, "65 bits is not from 0 to 64"),
        ("row-000001", {"min_score": 0.5}, "no option min_score"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(table: Table, asked: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        table.search_phash(asked, **options)


def test_a_table_without_hashes_says_what_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = make_table(tmp_path, TableOptions(rows=10))
    for arguments in (["search", uri, "--phash-of", "row-000001"], ["dedup", uri, "--phash", "4"]):
        assert cli.run(arguments) == EXIT_USER
        said = capsys.readouterr().err
        assert "no perceptual hashes" in said
        assert "phash: true" in said
    told: list[str] = []
    with pytest.raises(UserError, match=r"step 2 \(duplicates\): the table has no perceptual hashes") as error:
        select(uri, [{"sample": {"n": 3}}, {"duplicates": {"phash": 4}}], tell=told.append)
    assert (told, "without phash, vectors are compared" in error.value.hint) == ([], True), "before the first step"


def test_options_of_vectors_are_refused_beside_a_hash(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["search", table.uri, "a shoe", "--phash-of", "row-000001"]) == EXIT_USER
    assert "text is of a search by vectors" in capsys.readouterr().err
    assert cli.run(["search", table.uri, "--max-distance", "3", "--where", "true"]) == EXIT_USER
    assert cli.run(["dedup", table.uri, "--phash", "3", "--exact"]) == EXIT_USER


def groups(table: Table, bits: int) -> set[tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for row in dedup(table, phash=bits).groups.to_pylist():
        found.setdefault(row["group"], []).append(row["id"])
    return {tuple(sorted(members)) for members in found.values()}


@pytest.mark.parametrize("bits", [0, 2, 3, 10])
def test_copies_are_those_that_comparing_each_pair_connects(table: Table, hashes: list[int], bits: int) -> None:
    """A chain of three bits each is one group; flat pictures and rows without a hash are in none."""
    compared = [n for n in range(ROWS) if n not in (7, 30, 31)]
    group = {n: {n} for n in compared}
    for one in compared:
        for other in compared[:one]:
            if other in group and (hashes[one] ^ hashes[other]).bit_count() <= bits and group[one] is not group[other]:
                group[one] |= group[other]
                for n in group[other]:
                    group[n] = group[one]
    expected = {tuple(ids(*sorted(members))) for members in group.values() if len(members) > 1}
    assert groups(table, bits) == expected
    assert tuple(ids(19, 20)) in expected
    assert (tuple(ids(5, *range(10, 15))) in expected) == (bits >= 3)


def test_a_recipe_and_the_list_to_keep_leave_one_of_each_group(table: Table) -> None:
    report = dedup(table, phash=3)
    assert (report.threshold, report.phash, report.exact, report.near) == (None, 3, 0, 6)
    kept = set(keep_list(table, report)["id"].to_pylist())
    assert len(kept) == ROWS - 6
    found = select(table, [{"duplicates": {"phash": 3, "keep": "lowest_id"}}])
    assert set(found.ids) == set(ids(*range(ROWS))) - set(ids(*range(10, 15), 20))
    assert "6 by their perceptual hashes" in (found.steps[0].note or "")
    with pytest.raises(UserError, match="takes one of threshold, exact and phash"):
        select(table, [{"duplicates": {"phash": 3, "threshold": 0.9}}])
