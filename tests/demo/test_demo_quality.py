"""The road from tars to answers with the shipped model, in figures: the demo's six searches, tags, and captions.

And that these figures see what goes wrong in practice: colours swapped, a crop that is off, a missing normalisation,
captions that slipped by one. The road is the unit loop itself, without Ray.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipmill.workers.clip.engine
import clipmill.workers.clip.towers
import clipmill.workers.decode.prepared
import clipmill.workers.decode.preprocess
import clipmill.workers.unit
from clipmill.jobs.demo.bucket import NUM_BROKEN, BucketSpec, choose_scenes, number_of, tar_bytes
from clipmill.jobs.demo.captions import LABELS
from clipmill.jobs.demo.findings import search_all
from clipmill.jobs.demo.scene_types import Scene
from clipmill.jobs.demo.searches import HITS, SEARCHES, facet_accuracy
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.job.config import Limits, Source, Storage, Tags
from clipmill.schemas.model import ModelSpec
from clipmill.schemas.unit.receipts import Receipt
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.bench import Bench
from clipmill.workers.engine import Engine
from clipmill.workers.load import load_engine
from clipmill.workers.store.storage import head
from clipmill.workers.tag import Tagger, load_vocabulary
from clipmill.workers.unit import UnitRun

SPEC = BucketSpec(number=200)
STORAGE = Storage()
KEEP = {"objects": "int32", "background": "string", "style": "string"}

# What was measured with the shipped model on these very pictures (behind each), less what another processor may differ
# by. Every mistake below pushes one of them under its floor; a better model lets them be raised.
ACCURACY_FLOOR = {
    "object": 0.94,  # 0.98
    "colour": 0.89,  # 0.93; BGR and missing normalisation break it
    "count": 0.95,  # 0.995; 0.88 with the crop in the corner
    "background": 0.97,  # 1.00
    "position": 0.93,  # 1.00; 0.74 with the crop in the corner
}
SEARCH_FLOOR = 0.82  # 0.89: right answers among the first six, over the six searches; 0.78 without normalisation
RECALL_FLOOR = 0.97  # 0.995: the picture that is nearest to a caption is its own


@dataclass(frozen=True)
class Figures:
    """What the finished table is worth, between 0 and 1."""

    accuracy: dict[str, float]
    searches: dict[str, float]
    recall: float

    def under_the_floor(self) -> set[str]:
        under = {facet for facet, floor in ACCURACY_FLOOR.items() if self.accuracy[facet] < floor}
        under |= {"searches"} if np.mean(list(self.searches.values())) < SEARCH_FLOOR else set()
        return under | ({"captions"} if self.recall < RECALL_FLOOR else set())


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return choose_scenes(SPEC)


@pytest.fixture(scope="module")
def tars(scenes: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bucket")
    paths = [folder / name for name in SPEC.tars]
    for index, path in enumerate(paths):
        path.write_bytes(tar_bytes(SPEC, scenes, index))
    return paths


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(ModelSpec(name="clipmill-tiny"))


@pytest.fixture
def figures(
    tars: list[Path], engine: Engine, scenes: list[Scene], tmp_path: Path
) -> Callable[[], tuple[Figures, list[Receipt]]]:
    """Embeds the bucket when called, so that a test can break something before."""

    def measure() -> tuple[Figures, list[Receipt]]:
        receipts = embed(tars, engine, tmp_path)
        return figures_of(f"{tmp_path}/db/scenes", engine, scenes), receipts

    return measure


def embed(tars: list[Path], engine: Engine, folder: Path) -> list[Receipt]:
    """The tars as a table at `folder`/db/scenes."""
    source = Source.model_validate(
        {"format": "webdataset", "uri": str(tars[0].parent), "image": "jpg;png", "caption": "txt", "keep": KEEP}
    )
    tagger = Tagger.build(load_vocabulary("scenes"), engine, Tags(vocabulary="scenes", top_k=1))
    tables = Tables.at(f"{folder}/db/scenes", STORAGE)
    tables.ensure_side_tables()
    schema = rows_schema(
        dim=engine.dim,
        keep=KEEP,
        fingerprint_json=engine.fingerprint.to_json(),
        vocabulary_json=tagger.metadata_json,
        thumbnails=True,
    )
    context = WorkContext(
        run="r",
        rows_uri=tables.rows,
        rows_version=int(tables.create("", schema).version),
        rejects_uri=tables.uri("rejects"),
        source=source,
        storage=STORAGE,
        limits=Limits(),
        thumbnails=True,
    )
    with ThreadPoolExecutor(2) as pool:
        bench = Bench(engine=engine, tagger=tagger, pool=pool)
        receipts = [UnitRun(Task(unit=unit_of(path), attempt=1), context, bench).run() for path in tars]
    land(tables, [fragment for receipt in receipts for fragment in receipt.fragments])
    return receipts


def unit_of(path: Path) -> WorkUnit:
    seen = head(str(path), STORAGE)
    return WorkUnit(unit_id=path.stem, format="webdataset", uri=seen.uri, etag=seen.etag, size_bytes=seen.size_bytes)


def land(tables: Tables, fragments: list[str]) -> None:
    """The fragments in one plain append: the fenced commit has tests of its own."""
    import lance
    from lance.fragment import FragmentMetadata

    rows = tables.open()
    appended = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
    lance.LanceDataset.commit(rows.uri, appended, read_version=rows.version)


def figures_of(uri: str, engine: Engine, scenes: list[Scene]) -> Figures:
    table = open_table(uri, engine=engine)
    rows = table.snapshot.dataset.to_table(columns=["id", "tags", "vector", "caption_vector"]).to_pylist()
    mine = [scenes[number_of(row["id"])] for row in rows]
    images_ND = np.array([row["vector"] for row in rows], np.float32)
    captions_ND = np.array([row["caption_vector"] for row in rows], np.float32)
    nearest = (captions_ND @ images_ND.T).argmax(axis=1)
    found = search_all(table, scenes, program="clipmill", shown="t")
    return Figures(
        accuracy=facet_accuracy(mine, [row["tags"] for row in rows]),
        searches={one.title: one.num_right / HITS for one in found},
        recall=float(np.mean(nearest == np.arange(len(rows)))),
    )


Measured = Callable[[], tuple[Figures, list[Receipt]]]


def test_searches_tags_and_captions_are_as_good_as_the_model(figures: Measured) -> None:
    measured, receipts = figures()
    print(measured)
    assert measured.under_the_floor() == set(), measured
    assert sum(receipt.written for receipt in receipts) == SPEC.number
    rejected: dict[str, int] = {}
    for receipt in receipts:
        rejected |= {reason: rejected.get(reason, 0) + count for reason, count in receipt.rejected.items()}
    assert sum(rejected.values()) == NUM_BROKEN
    assert set(rejected) == {
        "truncated",
        "empty",
        "unknown_format",
        "corrupt",
        "too_many_pixels",
        "no_image",
        "bad_metadata",
    }


def test_swapped_colours_are_seen(figures: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    right = clipmill.workers.decode.prepared.decode

    def bgr(*args: Any, **kwargs: Any) -> Any:
        decoded = right(*args, **kwargs)
        return replace(decoded, stored_HWC=np.ascontiguousarray(decoded.stored_HWC[..., ::-1]))

    monkeypatch.setattr(clipmill.workers.decode.prepared, "decode", bgr)
    measured, _ = figures()
    print(measured)
    assert {"colour", "captions"} <= measured.under_the_floor(), measured


def test_a_crop_that_is_off_is_seen(figures: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the corner instead of the middle: only two pictures of five are not square."""
    monkeypatch.setattr(clipmill.workers.decode.preprocess, "_crop_start", lambda size_px, target_px: 0)
    measured, _ = figures()
    print(measured)
    assert "position" in measured.under_the_floor(), measured


def test_a_missing_normalisation_is_seen(figures: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load_engine(ModelSpec(name="clipmill-tiny"))._parts.image_tower.folded  # type: ignore[attr-defined]
    monkeypatch.setattr(clipmill.workers.clip.towers, "normalise", lambda pixels_BCHW, how: pixels_BCHW.float() / 255.0)
    measured, _ = figures()
    print(measured)
    assert {"colour", "captions", "searches"} <= measured.under_the_floor(), measured


def test_captions_that_slipped_by_one_are_seen(figures: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    right = clipmill.workers.unit.read_unit

    def slipped(*args: Any) -> Iterator[Any]:
        before: str | None = "the caption of the tar before"
        for item in right(*args):
            if isinstance(item, Sample):
                item, before = replace(item, caption=before), item.caption
            yield item

    monkeypatch.setattr(clipmill.workers.unit, "read_unit", slipped)
    measured, _ = figures()
    print(measured)
    assert measured.under_the_floor() == {"captions"}, measured


def test_pictures_that_slipped_by_one_are_seen(figures: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that belong to the row before: the batch is right, its order is not."""
    right = clipmill.workers.clip.engine.ClipEngine.encode_images

    def slipped(self: Any, pixels_BCHW: Any) -> Any:
        return np.roll(right(self, pixels_BCHW), 1, axis=0)

    monkeypatch.setattr(clipmill.workers.clip.engine.ClipEngine, "encode_images", slipped)
    measured, _ = figures()
    assert measured.under_the_floor() == {*ACCURACY_FLOOR, "searches", "captions"}, measured


def test_every_search_has_right_answers_in_the_bucket(scenes: list[Scene]) -> None:
    assert len(SEARCHES) == 6
    assert all(sum(map(search.is_true, scenes)) >= HITS for search in SEARCHES)
    assert set(ACCURACY_FLOOR) <= set(LABELS)
