"""A run's figures as a file of OpenMetrics text, for runs that no server watches: Prometheus' node exporter, Telegraf
or a person reads it. Whoever reads sees a whole file, because it is written beside and renamed."""

import bisect
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipmill.jobs.observing.figures import BUCKETS_S, Figures


class _Reading:
    """What prometheus_client calls a collector, of one reading."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        families: dict[str, Any] = {}
        for metric, labels, value in self.figures.samples_of():
            names = ("table", *metric.labels)
            if metric.name not in families:
                families[metric.name] = kinds[metric.kind](metric.name, metric.help, labels=names)
            values = [self.figures.table, *(labels[name] for name in metric.labels)]
            if isinstance(value, Sequence):
                ordered = sorted(value)
                below = [(str(bound), bisect.bisect_right(ordered, bound)) for bound in BUCKETS_S]
                families[metric.name].add_metric(values, [*below, ("+Inf", len(ordered))], sum(ordered))
            else:
                families[metric.name].add_metric(values, value)
        yield from families.values()


def text(figures: Figures) -> bytes:
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reading(figures))
    found: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return found


def write(path: Path, figures: Figures) -> None:
    """Raises OSError. Readable by others, as any file that is made here."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text(figures))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
