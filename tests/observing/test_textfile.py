"""Figures as OpenMetrics text, without a run."""

import os
import re
import stat
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from clipmill.jobs.observing import textfile
from clipmill.jobs.observing.figures import METRICS, Figures

WHOLE = Figures(
    table='s3://lake/db/a "table"\nof two lines',
    run="r",
    rows=7,
    rejects={"corrupt": 2, "too_small": 1},
    queue={"waiting": 5},
    stage_s={"embed": 1.5},
    busy={"embed": 0.5},
    commits_s=(0.1, 0.2, 7.0, 600.0),
    gpu_s=7200.0,
    dollars=5.0,
)


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def test_every_metric_is_there_with_its_labels_and_help() -> None:
    text = textfile.text(WHOLE).decode()
    assert text.endswith("# EOF\n")
    found = read(text)
    for metric in METRICS:
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        assert all(set(labels) == {"table", *metric.labels} for labels, _ in found[name]), name
        assert metric.help in text
    assert found["clipmill_rejects_total"][0][0] == {"table": WHOLE.table, "reason": "corrupt"}
    assert found["clipmill_dollars_total"][0][1] == 5.0


def test_a_price_that_nobody_named_is_no_metric() -> None:
    assert "clipmill_dollars_total" not in read(textfile.text(Figures(table="t")).decode())


def test_commits_are_counted_below_each_bound() -> None:
    found = read(textfile.text(WHOLE).decode())
    buckets = {float(labels["le"]): n for labels, n in found["clipmill_commit_seconds_bucket"]}
    assert (buckets[0.1], buckets[0.25], buckets[5.0], buckets[10.0], buckets[60.0]) == (1, 2, 2, 3, 3)
    assert buckets[float("inf")] == 4
    assert found["clipmill_commit_seconds_sum"][0][1] == pytest.approx(607.3)


def test_a_reader_never_meets_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clipmill.prom"
    textfile.write(path, Figures(table="t", rows=1))
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask(), "others read it"

    def full(fd: int, *words: object) -> object:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(textfile, "text", lambda figures: full(0))
        textfile.write(path, Figures(table="t", rows=2))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["clipmill.prom"], "nothing is left beside it"


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_names_are_prometheus_own_way_of_naming() -> None:
    for metric in METRICS:
        assert re.fullmatch("clipmill_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
