"""The main job, and the main job again: resume, nothing to do, what was added, changed, touched or moved meanwhile."""

import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.planning import listing
from clipmill.jobs.planning.plan import Plan
from clipmill.schemas.errors import EXIT_OK, EXIT_UNITS_FAILED, UserError
from clipmill.schemas.job.config import JobFile
from tests.conftest import S3
from tests.integration.conftest import last_json, write_job
from tests.integration.help import job, problems, rejects, rows, run, tables, versions, write_tar

pytestmark = pytest.mark.ray

SUMMARY_KEYS = {"run", "seen", "rows", "rejects", "failed_units", "seconds", "samples_per_s", "limited_by"}


def bucket(folder: Path) -> JobFile:
    """Two tars of six pictures, one bad one in the second."""
    write_tar(folder / "raw" / "a.tar", range(6))
    write_tar(folder / "raw" / "b.tar", range(10, 16), bad=1)
    return job(folder, {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"})


def captions(made: JobFile, version: int | None = None) -> set[str]:
    return {row["caption"] for row in rows(made, "caption", version=version)}


def texts(*seeds: int) -> set[str]:
    return {f"picture {seed}" for seed in seeds}


def test_a_run_then_nothing_then_what_was_added(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bucket(here)
    file = write_job(here / "job.yaml", made)

    assert cli.run(["embed", str(file), "--json"]) == EXIT_OK
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    first = last_json(out)
    assert first.keys() >= SUMMARY_KEYS
    assert (first["units"], first["seen"], first["rows"], first["rejects"]) == (2, 13, 12, {"unknown_format": 1})
    assert first["failed_units"] == []
    assert first["samples_per_s"] > 0
    assert first["limited_by"] in {"read", "decode", "embed", "tag", "write"}
    assert first["seconds"] >= first["startup_s"] > 0
    assert problems(made) == []
    assert [reject["uri"].rpartition("#")[2] for reject in rejects(made)] == ["bad0.jpg"]

    before = versions(made)
    start = time.process_time()  # of the processor: a busy machine takes longer by the clock
    assert cli.run(["embed", str(file), "--json"]) == EXIT_OK
    assert time.process_time() - start < 5
    again = capsys.readouterr()
    assert last_json(again.out)["note"] == "nothing to do: all 2 units are in the table"
    assert last_json(again.out)["already_done"] == 2

    assert cli.run(["embed", str(file)]) == EXIT_OK
    said = capsys.readouterr().err.split("look at it: ")[1].splitlines()[:2]
    assert [shlex.split(line)[:3] for line in said] == [["clipmill", word, made.table] for word in ("search", "serve")]
    assert versions(made) == before

    write_tar(here / "raw" / "aa.tar", range(20, 23))  # between the two by name: nothing is renumbered
    added = run(made)
    assert (added.units, added.already_done, added.seen, added.rows) == (1, 2, 3, 3)
    assert captions(made) == texts(*range(6), *range(10, 16), *range(20, 23))
    assert problems(made) == []


@pytest.mark.slow
def test_a_changed_shard_is_replaced_in_one_commit_and_a_touched_one_is_not_embedded(here: Path) -> None:
    made = bucket(here)
    run(made)
    old = {row["caption"]: row["unit_id"] for row in rows(made, "caption", "unit_id")}
    before = int(tables(made).open().version)

    write_tar(here / "raw" / "a.tar", range(4, 9))
    changed = run(made)
    assert (changed.units, changed.replaced_units, changed.already_done, changed.rows) == (1, 1, 1, 5)
    after = int(tables(made).open().version)
    states = {frozenset(captions(made, version)) for version in range(before, after + 1)}
    b = texts(*range(10, 16))
    assert states == {frozenset(b | texts(*range(6))), frozenset(b | texts(*range(4, 9)))}
    assert problems(made) == []
    new = {row["caption"]: row["unit_id"] for row in rows(made, "caption", "unit_id")}
    assert new["picture 4"] != old["picture 4"]
    assert new["picture 10"] == old["picture 10"]

    os.utime(here / "raw" / "b.tar", ns=(1, 1))
    touched = run(made)
    assert (touched.units, touched.aliases, touched.seen, touched.rows) == (1, 1, 0, 0)
    assert {row["caption"]: row["unit_id"] for row in rows(made, "caption", "unit_id")} == new
    assert problems(made) == []
    before_versions = versions(made)
    assert run(made).note.startswith("nothing to do")
    assert versions(made) == before_versions

    write_tar(here / "raw" / "b.tar", range(10, 12))  # an alias is replaced as its original is
    run(made)
    assert captions(made) == texts(*range(4, 9), 10, 11)
    assert problems(made) == []


def test_who_starts_a_run_is_shown_the_plan_may_refuse_it_and_may_let_gone_units_leave(here: Path) -> None:
    made = bucket(here)
    run(made)
    (here / "raw" / "b.tar").unlink()
    write_tar(here / "raw" / "c.tar", range(20, 23))
    before = versions(made)

    def refuse(plan: Plan) -> Plan:
        raise UserError(f"{len(plan.gone)} of {len(plan.ledger)} units are gone")

    with pytest.raises(UserError, match="1 of 2 units are gone"):
        run(made, review=refuse)
    assert versions(made) == before

    shown: list[tuple[int, int]] = []

    def let_go(plan: Plan) -> Plan:
        shown.append((plan.new, len(plan.gone)))
        return plan.without([entry.unit_id for entry in plan.gone])

    done = run(made, review=let_go)
    assert shown == [(1, 1), (1, 1)], "before the lease, and again under it"
    assert (done.rows, done.replaced_units) == (3, 1)
    assert captions(made) == texts(*range(6), *range(20, 23))
    assert problems(made) == []
    assert run(made, review=let_go).note.startswith("nothing to do")

    (here / "raw" / "c.tar").unlink()  # nothing new: what leaves is reason enough for a run
    assert (run(made, review=let_go).units, captions(made)) == (0, texts(*range(6)))
    assert problems(made) == []


def test_an_object_that_changes_after_the_plan_is_named_and_comes_with_the_next_run(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bucket(here)
    file = write_job(here / "job.yaml", made)
    survey = listing.survey

    def change_after(*args: Any, **options: Any) -> Any:
        units = list(survey(*args, **options))
        write_tar(here / "raw" / "b.tar", range(30, 33))
        return units

    monkeypatch.setattr(listing, "survey", change_after)
    assert cli.run(["embed", str(file), "--json"]) == EXIT_UNITS_FAILED
    said = capsys.readouterr()
    summary = last_json(said.out)
    assert (summary["rows"], summary["seen"]) == (6, 6)
    (failed,) = summary["failed_units"]
    assert failed["uri"].endswith("/raw/b.tar")
    assert "its source changed" in failed["reason"]
    assert "/raw/b.tar" in said.err
    assert "hint:" in said.err
    assert captions(made) == texts(*range(6))
    assert problems(made) == []

    monkeypatch.setattr(listing, "survey", survey)
    assert run(made).rows == 3
    assert captions(made) == texts(*range(6), 30, 31, 32)
    assert problems(made) == []


@pytest.mark.slow
@pytest.mark.s3
def test_the_same_bytes_under_another_etag_are_an_alias(here: Path, s3: S3) -> None:
    tar = write_tar(here / "a.tar", range(4), size_HW=(300, 400)).read_bytes()
    source = {"format": "webdataset", "uri": f"{s3.uri}/raw/*.tar", "caption": "txt"}
    made = job(f"{s3.uri}", source, storage=s3.storage.model_dump())
    s3.put("raw/a.tar", tar)
    assert run(made).rows == 4

    padded = tar + bytes(5 * 2**20)  # the least a part may hold; zeros after the end of a tar are no content
    upload = s3.client.create_multipart_upload(Bucket=s3.bucket, Key="raw/a.tar")["UploadId"]
    parts = []
    for number, part in ((1, padded[: 5 * 2**20]), (2, padded[5 * 2**20 :])):
        where = {"Bucket": s3.bucket, "Key": "raw/a.tar", "PartNumber": number, "UploadId": upload}
        parts.append({"PartNumber": number, "ETag": s3.client.upload_part(**where, Body=part)["ETag"]})
    s3.client.complete_multipart_upload(
        Bucket=s3.bucket, Key="raw/a.tar", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    summary = run(made)
    assert (summary.aliases, summary.rows) == (1, 0)
    assert len(rows(made, "id")) == 4
    assert problems(made) == []


def test_a_trial_of_the_first_pictures_grows_into_the_whole(here: Path) -> None:
    whole = bucket(here)
    trial = whole.model_copy(update={"source": whole.source.model_copy(update={"limit": 3})})
    summary = run(trial)
    assert (summary.units, summary.seen, summary.rows) == (1, 3, 3)
    assert problems(whole) == []
    assert run(trial).note.startswith("nothing to do")

    summary = run(whole)
    assert (summary.units, summary.rows, summary.replaced_units) == (2, 12, 1)
    assert captions(whole) == texts(*range(6), *range(10, 16))
    assert problems(whole) == []

    with pytest.raises(UserError, match=r"source\.limit is 3, but the table holds 6 samples"):
        run(trial)
    assert len(rows(whole, "id")) == 12
