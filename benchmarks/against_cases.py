"""The cases of `benchmarks.against` that are a command each, and what they are about."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance

from benchmarks.gpu.drawn import make_tars
from benchmarks.pictures import Kind
from benchmarks.serving_words import write
from benchmarks.start import WORDS

ROWS, MORE_ROWS, MOST_ROUNDS = 60_000, 6_000, 10
INDEXED = "rows/images"  # of a build's own folder: the table that is indexed and searched


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`words`: what is typed, without `clipmill`, for a build's own folder. `prepare`: what it needs before each run.
    `by_ray`: most of it is done by processes that are not its children. `after`: the case that makes its table.
    `times`: runs in a round; of more than one the very first is not counted. `once`: takes one round only."""

    name: str
    words: Callable[[Path], list[str]]
    prepare: Callable[[Path], None] = lambda own: None
    by_ray: bool = False
    after: str = ""
    times: int = 1
    once: bool = False


def cases(inputs: Path) -> list[Case]:
    """`inputs` holds what `make_inputs` made."""

    def job(table: str, tars: str, **model: Any) -> Callable[[Path], list[str]]:
        def words(own: Path) -> list[str]:
            source = {"format": "webdataset", "uri": f"{inputs}/{tars}/*.tar"}
            if tars != "many":
                source["caption"] = "txt"
            path = own / f"{table}.json"
            path.write_text(
                json.dumps({"table": f"{own}/{table}/images", "source": source} | ({"model": model} if model else {}))
            )
            return [str(path), "--json"]

        return words

    def without(folder: str) -> Callable[[Path], None]:
        return lambda own: shutil.rmtree(own / folder, ignore_errors=True)

    def bare_rows(own: Path) -> None:
        without("rows")(own)
        some = lance.dataset(f"{inputs}/bench_words_{_all_rows()}.lance").scanner(limit=ROWS).to_reader()
        lance.write_dataset(some, f"{own}/{INDEXED}.lance", enable_stable_row_ids=True)

    def more_rows(own: Path) -> None:
        there = lance.dataset(f"{own}/{INDEXED}.lance").count_rows()
        more = lance.dataset(f"{inputs}/bench_words_{_all_rows()}.lance").scanner(offset=there, limit=MORE_ROWS)
        lance.write_dataset(more.to_reader(), f"{own}/{INDEXED}.lance", mode="append")

    towers = job("towers", "pictures", name="ViT-B-32", pretrained="random")
    tiny = job("tiny", "pictures")
    stub = job("stub", "small", name="stub:2048")  # wide, so that so few rows get an index
    plan = job("many", "many", name="ViT-B-32", pretrained="random")

    def search(*words: str) -> Callable[[Path], list[str]]:
        return lambda own: ["search", f"{own}/tiny/images", *words, "-k", "5", "--json"]

    def index(own: Path) -> list[str]:
        return ["index", f"{own}/{INDEXED}", "--json"]

    def demo(own: Path) -> list[str]:
        return ["demo", "--out", f"{own}/demo", "--json"]

    made, seen, rows = "embed, stub and index", "embed, clipmill-tiny", f"index, {ROWS:,} rows"
    return [
        Case(name="embed, ViT-B-32", words=lambda own: ["embed", *towers(own)], prepare=without("towers"), by_ray=True),
        Case(name=seen, words=lambda own: ["embed", *tiny(own)], prepare=without("tiny"), by_ray=True),
        Case(name=made, words=lambda own: ["embed", *stub(own)], prepare=without("stub"), by_ray=True),
        Case(name="embed, nothing to do", words=lambda own: ["embed", *stub(own)], after=made, times=2),
        Case(name="verify", words=lambda own: ["verify", f"{own}/stub/images", "--json"], after=made, times=2),
        Case(name="plan of 5,000 tars", words=lambda own: ["plan", *plan(own)]),
        Case(name="search words, cold", words=search(WORDS), after=seen, times=2),
        Case(name="search --image, cold", words=search("--image", f"{inputs}/picture.jpg"), after=seen, times=2),
        Case(
            name="verify --sample 10",
            words=lambda own: ["verify", f"{own}/tiny/images", "--sample", "10", "--json"],
            after=seen,
            times=2,
        ),
        Case(name="demo, from nothing", words=demo, prepare=without("demo"), by_ray=True, once=True),
        Case(name="demo, all there", words=demo, by_ray=True, after="demo, from nothing"),
        Case(name=rows, words=index, prepare=bare_rows),
        Case(name=f"index, {MORE_ROWS:,} rows more", words=index, prepare=more_rows, after=rows),
    ]


def _all_rows() -> int:
    return ROWS + MOST_ROUNDS * MORE_ROWS


def make_inputs(folder: Path, *, pictures: int = 192, small: int = 4500, many: int = 5000) -> None:
    """Drawn; made once."""
    cores = os.cpu_count() or 1
    make_tars(folder / "pictures", 3, Kind(samples_per_shard=pictures // 3), cores)
    make_tars(folder / "small", 9, Kind(shortest_px=32, target_bytes=1500, samples_per_shard=small // 9), cores)
    first = min((folder / "small").glob("*.tar"))
    (folder / "many").mkdir(exist_ok=True)
    for number in range(many):
        path = folder / "many" / f"{number:05d}.tar"
        if not path.exists():
            shutil.copy(first, path) if not number else path.touch()
            os.truncate(path, 200_000_000)  # of which the disk holds nothing
    with tarfile.open(min((folder / "pictures").glob("*.tar"))) as archive:
        image = archive.extractfile(next(member for member in archive if member.name.endswith(".jpg")))
        assert image is not None
        (folder / "picture.jpg").write_bytes(image.read())
    write(folder, _all_rows())
