"""A run's figures through Ray's own exporter: on port 8080 of the driver's node, as `ray_clipmill_…`.

Ray adds up counters itself, so what is handed over is what came since the last time.
"""

from collections.abc import Sequence
from typing import Any

from clipmill.jobs.observing.figures import BUCKETS_S, COMMIT_S, METRICS, Figures, Metric

# Ray refuses to add 0, and Prometheus sees no increase in a counter that begins with its first value. The smallest
# number there is makes it begin at nothing, and is lost in whatever is added to it.
_NOTHING = 5e-324


class RayExporter:
    """For a driver that is connected, and not as a Ray client, whose process has no exporter."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {metric.name: _made(metric) for metric in METRICS}
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}
        self._observed = 0

    def tell(self, figures: Figures) -> None:
        for metric, labels, value in figures.samples_of():
            made, tags = self._metrics[metric.name], {"table": figures.table, **labels}
            if isinstance(value, Sequence):
                for seconds in value[self._observed :]:
                    made.observe(seconds, tags=tags)
                self._observed = len(value)
            elif metric.kind == "gauge":
                made.set(value, tags=tags)
            else:
                key = (metric.name, tuple(labels.values()))
                more = value - self._told[key] if key in self._told else value or _NOTHING
                if more > 0:
                    made.inc(more, tags=tags)
                    self._told[key] = value


def _made(metric: Metric) -> Any:
    from ray.util import metrics

    tag_keys = ("table", *metric.labels)
    if metric is COMMIT_S:
        return metrics.Histogram(metric.name, metric.help, boundaries=list(BUCKETS_S), tag_keys=tag_keys)
    made = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return made(metric.name, metric.help, tag_keys=tag_keys)
