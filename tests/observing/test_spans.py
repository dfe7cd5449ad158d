"""Spans: sent where the environment asks for them, and nothing at all where it does not."""

import subprocess
import sys
import time
from typing import Any

import pytest

from clipmill.jobs.observing import spans as module
from clipmill.jobs.observing.spans import Spans, spans

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED")


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_where_nobody_asks_nothing_is_imported() -> None:
    code = (
        "import sys; from clipmill.jobs.observing.spans import spans\n"
        "s = spans(print); s.begin('a', {}); s.add('b', 1.0, {}); s.end()\n"
        "assert not s and not [m for m in sys.modules if m.startswith('opentelemetry')]"
    )
    env = {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_hundred_thousand_units_without_spans_take_no_time() -> None:
    nothing = Spans()
    start = time.perf_counter()
    for _ in range(100_000):
        if nothing:
            raise AssertionError
        nothing.add("clipmill.unit", 1.0, {})
    assert time.perf_counter() - start < 1.0


def test_what_is_not_installed_is_said_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    told: list[str] = []
    made = spans(told.append)
    assert not made
    made.begin("clipmill.run", {})
    made.end()
    (line,) = told
    assert "pip install 'clipmill[otel]'" in line


def test_units_are_spans_inside_the_runs_with_the_drivers_times() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    kept = export.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    made = Spans(provider.get_tracer("clipmill"), provider.force_flush)
    made.begin("clipmill.run", {"clipmill.run": "r"})
    made.add("clipmill.unit", 2.5, {"clipmill.unit": "u", "clipmill.seconds.embed": 1.0})
    made.add("clipmill.unit", 1.0, {"clipmill.unit": "v"}, "the worker died at s3://key:hunter2secret@lake")
    made.end()
    first, second, run = kept.get_finished_spans()
    assert [one.name for one in (first, second, run)] == ["clipmill.unit", "clipmill.unit", "clipmill.run"]
    assert (first.end_time - first.start_time) / 1e9 == pytest.approx(2.5)
    assert first.attributes == {"clipmill.unit": "u", "clipmill.seconds.embed": 1.0}
    assert first.parent.span_id == second.parent.span_id == run.context.span_id
    assert (second.status.status_code.name, second.status.description) == (
        "ERROR",
        "the worker died at s3://***@lake",
    )
    assert first.status.status_code.name == "UNSET"


def test_asked_by_the_standards_variable_they_go_where_it_says(
    capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    pytest.importorskip("opentelemetry.sdk.trace")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    made = spans(print)
    assert made
    made.begin("clipmill.run", {"clipmill.table": "t"})
    made.end("it failed")
    said = capfd.readouterr()
    assert said.out == "", "only data belongs there"
    assert '"name": "clipmill.run"' in said.err
    assert "it failed" in said.err
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not module.spans(print)
