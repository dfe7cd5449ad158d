"""OpenTelemetry spans of a run, its units and its commits, where somebody asked for them and the libraries are there.

Asked is by the standard's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER) or by a provider that is
set up already (`opentelemetry-instrument clipmill …`). Where nobody asked, nothing is imported and every call returns
at once. Times are the driver's: a unit's span is from when it was handed out to its receipt, with the stages' seconds.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from clipmill.schemas.text.secrets import masked

Attributes = dict[str, str | int | float]


class Spans:
    """One for a run. `tracer`: None where nobody asked."""

    def __init__(self, tracer: Any = None, close: Callable[[], object] = lambda: None) -> None:
        self._tracer, self._close = tracer, close
        self._run: Any = None

    def __bool__(self) -> bool:
        return self._tracer is not None

    def begin(self, name: str, attributes: Attributes) -> None:
        """The span that the others are part of."""
        if self._tracer is not None:
            self._run = self._tracer.start_span(name, attributes=attributes)

    def add(self, name: str, seconds: float, attributes: Attributes, error: str = "") -> None:
        """A span that ends now and took `seconds`."""
        if self._tracer is None:
            return
        from opentelemetry import trace

        end_ns = time.time_ns()
        inside = trace.set_span_in_context(self._run) if self._run is not None else None
        span = self._tracer.start_span(
            name, context=inside, start_time=end_ns - int(seconds * 1e9), attributes=attributes
        )
        if error:
            span.set_status(trace.Status(trace.StatusCode.ERROR, masked(error)))
        span.end(end_time=end_ns)

    def end(self, error: str = "") -> None:
        if self._run is not None:
            from opentelemetry import trace

            if error:
                self._run.set_status(trace.Status(trace.StatusCode.ERROR, masked(error)))
            self._run.end()
            self._run = None
        self._close()


def spans(say: Callable[[str], None]) -> Spans:
    """As the environment asks. What is asked for and not installed is said, and no error: the run is what matters."""
    asked = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_TRACES_EXPORTER", "none") != "none"
    asked = bool(asked) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
    if not asked and "opentelemetry.sdk.trace" not in sys.modules:
        return Spans()
    try:
        return _made(asked)
    except ImportError as error:
        say(f"no spans are sent: {error.name} is not installed (pip install 'clipmill[otel]')")
        return Spans()


def _made(asked: bool) -> Spans:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):  # somebody's own, theirs to end
        return Spans(provider.get_tracer("clipmill"), provider.force_flush)
    if not asked:
        return Spans()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        exporter = ConsoleSpanExporter(out=sys.stderr)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    mine = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "clipmill")}))
    mine.add_span_processor(BatchSpanProcessor(exporter))
    return Spans(mine.get_tracer("clipmill"), mine.shutdown)
