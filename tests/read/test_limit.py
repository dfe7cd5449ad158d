"""`source.limit`: a trial takes the first samples, whatever the format, and no more is read than that."""

import csv
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.planning.listing import refuse_to_shrink
from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read import read_unit
from clipmill.workers.read.census import Census
from tests.build import parquet, picture, tar
from tests.committed import entry_of

PICTURES = 12


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """Twelve pictures in each format; two tars and two parquet files of six."""
    names = [f"{number:02d}.jpg" for number in range(PICTURES)]
    images = [picture(number, size_HW=(16, 16)) for number in range(PICTURES)]
    (tmp_path / "files").mkdir()
    for name, image in zip(names, images, strict=True):
        (tmp_path / "files" / name).write_bytes(image)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri"])
        writer.writerows([str(tmp_path / "files" / name)] for name in names)
    for part in (0, 6):
        (tmp_path / f"{part}.tar").write_bytes(
            tar(list(zip(names[part : part + 6], images[part : part + 6], strict=True)))
        )
        (tmp_path / f"{part}.parquet").write_bytes(parquet({"image": images[part : part + 6]}))
    return tmp_path


def source_of(bucket: Path, format: str, limit: int | None) -> Source:
    uri = {
        "files": f"{bucket}/files/",
        "manifest": f"{bucket}/list.csv",
        "webdataset": f"{bucket}/*.tar",
        "parquet": f"{bucket}/*.parquet",
    }[format]
    return Source(format=format, uri=uri, image="image" if format == "parquet" else (), limit=limit)  # type: ignore[arg-type]


def units(source: Source) -> list[WorkUnit]:
    return list(survey(source, Storage(), Limits()))


def names(source: Source, found: list[WorkUnit]) -> list[str]:
    read: list[Any] = [s for unit in found for s in read_unit(unit, source, Storage(), Limits(), Census())]
    assert all(isinstance(sample, Sample) for sample in read)
    return [sample.id for sample in read]


@pytest.mark.parametrize("format", ["files", "manifest", "webdataset", "parquet"])
@pytest.mark.parametrize("limit", [1, 5])
def test_the_first_samples_and_no_more(bucket: Path, format: str, limit: int) -> None:
    whole, trial = source_of(bucket, format, None), source_of(bucket, format, limit)
    everything = names(whole, units(whole))
    assert len(everything) == PICTURES
    assert names(trial, units(trial)) == everything[:limit]
    assert sum(unit.num_samples or 0 for unit in units(trial)) == limit
    assert {unit.unit_id for unit in units(trial)}.isdisjoint({unit.unit_id for unit in units(whole)})


def test_units_that_say_how_many_they_hold_are_whole_while_there_is_room(bucket: Path) -> None:
    whole, trial = units(source_of(bucket, "parquet", None)), units(source_of(bucket, "parquet", 8))
    assert [unit.limit for unit in trial] == [None, 2]
    assert trial[0] == whole[0]
    assert len(names(source_of(bucket, "parquet", 8), trial)) == 8
    assert units(source_of(bucket, "parquet", 6)) == whole[:1]
    assert units(source_of(bucket, "parquet", 500)) == whole


def test_a_tar_does_not_say_how_many_it_holds_so_a_trial_ends_within_the_first(bucket: Path) -> None:
    trial = source_of(bucket, "webdataset", 500)
    assert len(names(trial, units(trial))) == 6


@pytest.mark.parametrize("format", ["files", "manifest", "webdataset", "parquet"])
@pytest.mark.parametrize(
    ("there", "wanted", "allowed"), [(2, 5, True), (5, 2, False), (None, 5, False), (2, None, True)]
)
def test_a_trial_grows_into_the_whole_and_never_shrinks_a_table(
    bucket: Path, format: str, there: int | None, wanted: int | None, allowed: bool
) -> None:
    done = units(source_of(bucket, format, there))
    latest = {unit.unit_id: entry_of(unit, "r", there or 6, version=2) for unit in done}
    plan = make_plan(units(source_of(bucket, format, wanted)), latest)
    replaced = {old for group in plan.replacements for old in group.old}
    if allowed:
        refuse_to_shrink(plan, wanted)
        assert replaced == set(latest)
    else:
        assert replaced
        with pytest.raises(UserError, match=r"source\.limit"):
            refuse_to_shrink(plan, wanted)


def test_a_trial_that_ends_at_a_units_edge_does_not_drop_the_units_behind_it(bucket: Path) -> None:
    """Then there is nothing new in the file, only units that are not listed: they are not to leave."""
    first, second = units(source_of(bucket, "manifest", 6))[0], units(source_of(bucket, "manifest", None))[0]
    latest = {unit.unit_id: entry_of(unit, "r", 6, version=2) for unit in (first, second)}
    plan = make_plan([first], latest)
    assert plan.replacements
    with pytest.raises(UserError, match="already"):
        refuse_to_shrink(plan, 6)
