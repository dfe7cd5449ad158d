"""What a server keeps at hand: vectors in a file of nobody's, and the vectors of words that were asked before."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.querying.open import Table, open_table
from tests.tables import TableOptions, WordEngine, make_table


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_table(tmp_path_factory.mktemp("warm"), TableOptions(rows=300))


def hits(table: Table) -> list[tuple[str, float]]:
    found = table.search("red shoe", k=20, any_tags=("red", "blue"))
    return list(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True))


def test_vectors_at_hand_lie_in_a_file_or_where_the_disk_is_full_in_memory(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = open_table(uri, engine=WordEngine())
    assert table.warm()
    held = table.snapshot.warm["vector"].vectors_ND
    assert list(tmp_path.iterdir()) == [], "a name in the folder would outlive the process"
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = [int(line.partition("-")[0], 16) for line in lines if f"{tmp_path}/" in line and "(deleted)" in line]
    assert np.asarray(held).ctypes.data in mapped, "not of the file"
    from_file = hits(table)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert table.warm()
    assert hits(table) == from_file


def test_words_are_embedded_once(uri: str) -> None:
    engine = WordEngine()
    table = open_table(uri, engine=engine)
    hits(table)
    hits(table)
    assert engine.texts_seen == 2, "a script is asked once, and keeps nothing"
    table.remember_words()
    first = hits(table)
    assert hits(table) == first
    assert engine.texts_seen == 3
    table.search(["red shoe", "hat"], negative="red shoe")
    assert engine.texts_seen == 5, "two texts together are another question; those to be unlike are remembered"
    table.remember_words(memory_bytes=1_000)
    for n in range(4):
        table.search(f"red {n}")
    table.search("red 0")
    assert engine.texts_seen == 10, "what is kept has a bound"


def test_words_are_embedded_anew_by_another_model(uri: str) -> None:
    table = open_table(uri, engine=WordEngine())
    table.remember_words()
    hits(table)
    other = WordEngine(weights="others")  # as after a promotion, which puts another model's vectors in place
    table._engine = other
    table.snapshot.fingerprint = lambda _: other.fingerprint  # type: ignore[method-assign]
    hits(table)
    assert other.texts_seen == 1
