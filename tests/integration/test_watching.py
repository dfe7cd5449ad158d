"""What a run shows while it goes on: JSON lines, figures in a file, and a dashboard that asks for what is there."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.observing.figures import METRICS
from tests.integration.help import write_tar

ROOT = Path(__file__).resolve().parents[2]
UNITS, GOOD, BAD = 4, 3, 1


@pytest.fixture
def job_file(here: Path) -> Path:
    for number in range(UNITS):
        write_tar(here / "raw" / f"{number}.tar", range(GOOD * number, GOOD * (number + 1)), bad=BAD)
    job = {
        "table": f"{here}/db/images",
        "source": {"format": "webdataset", "uri": f"{here}/raw/*.tar"},
        "model": {"name": "stub"},
        "workers": {"num": 1},
        "plan": {"price_per_gpu_hour": 2.5},
    }
    path = here / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Every line of stderr, each a JSON object."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def figures(path: Path) -> dict[tuple[str, str], float]:
    """(name of the sample, the value of its label beside `table`) -> value, as OpenMetrics' own parser reads them."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "table"}
            found[sample.name, labels.get("run", ",".join(labels.values()))] = sample.value
    return found


def asked_for() -> set[str]:
    """The metrics in the queries of the dashboard, each a selector of both exporters' names."""
    board = json.loads((ROOT / "deploy/grafana/clipmill.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]
    names = [re.findall(r'\{__name__=~"\(ray_\)\?([a-z_]+)"', query) for query in queries]
    assert all(names), "no query without a metric"
    return {name for some in names for name in some}


@pytest.mark.ray
def test_every_line_says_which_run_unit_actor_and_node_it_is_about(
    job_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr("clipmill.jobs.terminal.progress.LINE_EVERY_S", 0.0)
    (job_file.parent / "raw" / "9.tar").write_bytes(b"PK\x03\x04 of another kind")
    code = clipmill(["embed", str(job_file), "--log-format", "json"])
    lines = said(capsys)
    assert code == 3
    assert all({"at", "level", "message", "run", "unit", "actor", "node"} <= set(line) for line in lines)
    runs = {line["run"] for line in lines} - {None}
    assert len(runs) == 1
    done = [line for line in lines if line["message"] == "unit done"]
    assert len({line["unit"] for line in done}) == UNITS
    assert {line["node"] for line in done} <= {node["NodeID"] for node in ray.nodes()}
    assert all(re.fullmatch("[0-9a-f]{32}", line["actor"]) for line in done)
    assert sum(line["written"] for line in done) == UNITS * GOOD
    (failed,) = (line for line in lines if line["message"] == "unit not done")
    assert failed["level"] == "warning"
    assert failed["uri"].endswith("9.tar")
    assert failed["reason"]
    assert failed["node"] == done[0]["node"]
    assert [line for line in lines if line["message"] == "committed"]
    (error,) = (line for line in lines if line["level"] == "error")
    assert error["message"].startswith("1 unit failed")
    assert [line for line in lines if line.get("units_total") == UNITS + 1], "progress, with its figures"
    assert clipmill(["status", "nowhere/at-all"]) == 2
    assert capsys.readouterr().err.startswith("error: "), "the next command's lines are text again"


@pytest.mark.ray
def test_the_figures_of_a_run_are_those_of_its_summary(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job_file.parent / "clipmill.prom"
    assert clipmill(["embed", "job.yaml", "--json", "--metrics", "clipmill.prom"]) == 0
    summary = json.loads(capsys.readouterr().out)
    os.chdir(job_file.parent)
    found = figures(path)
    assert found["clipmill_rows_total", ""] == summary["rows"] == UNITS * GOOD
    assert found["clipmill_samples_total", ""] == summary["seen"]
    rejects = {reason: n for (name, reason), n in found.items() if name == "clipmill_rejects_total"}
    assert rejects == summary["rejects"]
    assert sum(rejects.values()) == UNITS * BAD
    assert found["clipmill_units_total", ""] == UNITS
    assert found["clipmill_units_failed_total", ""] == 0
    assert {state: n for (name, state), n in found.items() if name == "clipmill_queue_units"} == {
        "waiting": 0,
        "in_flight": 0,
        "uncommitted": 0,
    }
    assert found["clipmill_commit_seconds_count", ""] == summary["commits"]
    assert found["clipmill_commit_seconds_sum", ""] > 0
    assert found["clipmill_commit_seconds_bucket", "+Inf"] == summary["commits"]
    assert found["clipmill_stage_seconds_total", "decode"] > 0
    assert 0 <= found["clipmill_stage_busy_ratio", "embed"] <= 1
    assert found["clipmill_images_per_second", ""] > 0
    assert found["clipmill_commit_lag_seconds", ""] == 0
    assert found["clipmill_dollars_total", ""] == 0, "no GPU, no dollars"
    assert found["clipmill_run_info", summary["run"]] == 1
    assert {name for name, _ in found} >= {m.name for m in METRICS if m.kind != "histogram"}
    assert len(asked_for()) > 15
    assert asked_for() <= {name for name, _ in found}, "what the dashboard asks for is there"
    assert [p.name for p in job_file.parent.glob("*clipmill.prom*")] == ["clipmill.prom"], "nothing half-written"
    assert clipmill(["embed", "job.yaml", "--metrics", "clipmill.prom"]) == 0
    os.chdir(job_file.parent)
    assert figures(path)["clipmill_updated_timestamp_seconds", ""] > found["clipmill_updated_timestamp_seconds", ""]
    assert figures(path)["clipmill_rows_total", ""] == 0, "a run that finds nothing to do"


@pytest.mark.ray
def test_the_figures_of_a_fill_are_those_of_its_summary(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = job_file.parent
    assert clipmill(["embed", "job.yaml"]) == 0
    os.chdir(folder)
    (folder / "raw" / "0.tar").unlink()
    capsys.readouterr()
    words = ["reembed", "db/images", "--model", "stub:8", "--json", "--metrics", "fill.prom"]
    assert clipmill(words) == 0
    summary = json.loads(capsys.readouterr().out)
    os.chdir(folder)
    found = figures(folder / "fill.prom")
    assert found["clipmill_rows_total", ""] == summary["rows"] == (UNITS - 1) * GOOD
    rejects = {reason: n for (name, reason), n in found.items() if name == "clipmill_rejects_total"}
    assert rejects == summary["rejects"] == {"not_found": GOOD}
    assert found["clipmill_samples_total", ""] == UNITS * GOOD
    assert found["clipmill_commit_seconds_count", ""] == summary["commits"]
    assert found["clipmill_source_bytes_total", ""] == summary["bytes_read"]
    assert found["clipmill_run_info", summary["run"]] == 1
    assert {state: n for (name, state), n in found.items() if name == "clipmill_queue_units"} == {
        "waiting": 0,
        "in_flight": 0,
        "uncommitted": 0,
    }
    assert asked_for() - {name for name, _ in found} <= {"clipmill_dollars_total"}, "no price of a fill"
    assert clipmill(words) == 0, "nothing left"
    os.chdir(folder)
    assert figures(folder / "fill.prom")["clipmill_rows_total", ""] == 0


@pytest.mark.ray
def test_a_file_that_cannot_be_written_is_said_once_and_ends_no_run(
    job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job_file.parent / "taken").mkdir()
    assert clipmill(["embed", "job.yaml", "--metrics", "nowhere/at.prom"]) == 2
    assert "there is no folder 'nowhere'" in capsys.readouterr().err
    from clipmill.jobs.planning.jobfile import load_job
    from clipmill.jobs.running import embed
    from clipmill.jobs.running.options import Options

    gone = job_file.parent / "gone" / "at.prom"  # its folder went while the job ran
    assert embed.run(load_job(str(job_file)), Options(metrics=gone)).rows == UNITS * GOOD
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "at.prom" in line)
    assert line.endswith("is not written any more: No such file or directory")


@pytest.mark.ray
def test_a_run_that_ends_with_an_error_is_a_span_that_says_so(
    job_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.sdk.trace")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    from clipmill.jobs.planning.jobfile import load_job
    from clipmill.jobs.running import embed
    from clipmill.jobs.running.options import Options
    from tests.committed import Killed, killer

    with pytest.raises(Killed):
        embed.run(load_job(str(job_file)), Options(hook=killer("before_rows")))
    said = capfd.readouterr().err
    run = said[said.index('"name": "clipmill.run"') :]
    assert '"status_code": "ERROR",\n        "description": "Killed: before_rows"' in run
