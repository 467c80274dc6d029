"""Counters and histograms in Prometheus' text format (version 0.0.4).

BentoML's own metrics label every raw path, so that a scan for unknown paths grows them without
bound, and need a folder of memory-mapped files; they are off. Here every label has a fixed set of
values: `route_of` maps any path to a route of this service or to `other`.
"""

import bisect
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from base.memory import resident_memory
from serving.http.telemetry.metric_store import Key, Labels, MetricStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
FIXED_ROUTES = frozenset(
    (
        *("/", "/embed", "/search", "/items", "/livez", "/readyz", "/healthz", "/metrics"),
        *("/docs.json", "/openapi.json", "/schema.json", "/status", "/health"),
        *("/v1/embeddings", "/v1/models", "/v2", "/v2/health/live", "/v2/health/ready"),
        *("/v2/models", "/v2/models/stats", "/v2/repository/index"),
    )
)
# Prefixes, what follows them, and the views that may end it.
OPEN_ROUTES = {
    "/web/": ("{file}",),
    "/items/": ("{key}", "/similar", "/thumbnail"),
    "/v1/models/": ("{model}",),
    "/v2/models/": ("{model}", "/infer", "/ready", "/config", "/stats"),
}


def route_of(path: str) -> str:
    """Return the template of a path, one of two dozen."""
    if path in FIXED_ROUTES:
        return path
    for prefix, (name, *views) in OPEN_ROUTES.items():
        if path.startswith(prefix):
            return prefix + name + next((view for view in views if path.endswith(view)), "")
    return "other"


def method_of(method: str) -> str:
    """Return the method, or `other`."""
    return method if method in METHODS else "other"


class Counter:
    """A value that grows, for each combination of labels."""

    kind = "counter"

    def __init__(self, store: MetricStore, name: str, help_text: str) -> None:
        self.name = name
        self.help_text = help_text
        self._store = store

    def add(self, amount: float = 1, **labels: str) -> None:
        """Add to the value under these labels."""
        self._store.add((self.name, tuple(labels.items())), amount)

    def lines(self, values: Mapping[Key, float]) -> list[str]:
        """Return the samples."""
        own = [(labels, value) for (name, labels), value in values.items() if name == self.name]
        return [_sample(self.name, labels, value) for labels, value in own]


class Gauge(Counter):
    """A value that goes up and down."""

    kind = "gauge"

    def set(self, value: float) -> None:
        """Set the value of this process."""
        self._store.set((self.name, ()), value)


class Histogram:
    """How often a value fell below each of some bounds, for each combination of labels."""

    kind = "histogram"

    def __init__(
        self, store: MetricStore, name: str, help_text: str, bounds: Sequence[float]
    ) -> None:
        self.name = name
        self.help_text = help_text
        self._bounds = tuple(bounds)
        self._names = (*map(str, self._bounds), "+Inf")
        self._store = store

    def observe(self, value: float, **labels: str) -> None:
        """Note one value."""
        key = tuple(labels.items())
        bound = self._names[bisect.bisect_left(self._bounds, value)]
        self._store.add((f"{self.name}_bucket", (*key, ("le", bound))), 1)
        self._store.add((f"{self.name}_sum", key), value)

    def lines(self, values: Mapping[Key, float]) -> list[str]:
        """Return the samples: cumulative buckets, sum and count."""
        lines: list[str] = []
        bucket = f"{self.name}_bucket"
        for labels in [labels for name, labels in values if name == f"{self.name}_sum"]:
            total = 0.0
            for bound in self._names:
                key = (*labels, ("le", bound))
                total += values.get((bucket, key), 0.0)
                lines.append(_sample(bucket, key, total))
            lines.append(_sample(f"{self.name}_sum", labels, values[f"{self.name}_sum", labels]))
            lines.append(_sample(f"{self.name}_count", labels, total))
        return lines


class Metrics:
    """All metrics of one service. `note_…` is called on the event loop only.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        counter, histogram = partial(Counter, store), partial(Histogram, store)
        gauge = partial(Gauge, store)
        self.requests = counter("lookalike_requests_total", "Requests by route and answer.")
        self.seconds = histogram(
            "lookalike_request_seconds", "Seconds from a request's head to its answer.", SECONDS
        )
        self.refused = counter("lookalike_refused_total", "Refused requests by error type.")
        self.images = counter("lookalike_images_total", "Images by outcome: embedded or refused.")
        self.batch_images = histogram("lookalike_batch_images", "Images in a batch.", BATCHES)
        self.batch_seconds = histogram(
            "lookalike_batch_seconds", "Seconds of the encoder for a batch.", SECONDS
        )
        self.queue_seconds = histogram(
            "lookalike_queue_seconds", "Longest wait of a request's images for a batch.", SECONDS
        )
        self.decode_seconds = histogram(
            "lookalike_decode_seconds", "Seconds to decode and resize an image.", SECONDS
        )
        self.admitted = gauge("lookalike_images_admitted", "Images being decoded or embedded.")
        self.body_bytes = gauge(
            "lookalike_body_bytes", "Bytes of the bodies of all requests under way."
        )
        self.resident_bytes = gauge(
            "lookalike_resident_bytes",
            "Memory that all workers hold, half a minute old at most.",
        )
        self.storage_failing = gauge(
            "lookalike_storage_failing", "Workers whose last change the disk did not take."
        )
        for one in (self.admitted, self.body_bytes, self.storage_failing):
            one.set(0)  # whatever a worker before this one left

    def note_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        route = route_of(path)
        self.requests.add(method=method_of(method), route=route, status=str(status))
        self.seconds.observe(seconds, route=route)

    def note_batch(self, images: int, seconds: float) -> None:
        """Note a batch that the encoder has done."""
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def note_images(self, outcomes: Sequence[object]) -> None:
        """Note what became of a request's images; an exception is a refusal."""
        refused = sum(isinstance(outcome, Exception) for outcome in outcomes)
        self.images.add(refused, outcome="refused")
        self.images.add(len(outcomes) - refused, outcome="embedded")

    def note_memory(self) -> None:
        """Note the memory of this process, where the system shows it."""
        resident = resident_memory()
        if resident is not None:
            self.resident_bytes.set(resident)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's values that have these labels, over all others."""
        required = set(labels.items())
        return sum(
            value
            for (metric, own), value in self._store.collect().items()
            if metric == name and required <= set(own)
        )

    def text(self, items: int | None) -> str:
        """Return all metrics in the text format; `items` of the collection, None without one."""
        values = self._store.collect()
        lines: list[str] = []
        for metric in (
            *(self.requests, self.seconds, self.refused, self.images),
            *(self.batch_images, self.batch_seconds, self.queue_seconds, self.decode_seconds),
            *(self.admitted, self.body_bytes, self.resident_bytes, self.storage_failing),
        ):
            lines += [f"# HELP {metric.name} {metric.help_text}"]
            lines += [f"# TYPE {metric.name} {metric.kind}", *metric.lines(values)]
        if items is not None:
            lines += ["# HELP lookalike_items Items in the collection."]
            lines += ["# TYPE lookalike_items gauge", _sample("lookalike_items", (), items)]
        return "\n".join(lines) + "\n"


def _sample(name: str, labels: Labels, value: float) -> str:
    named = ",".join(f'{label}="{text}"' for label, text in labels)
    number = f"{value:.0f}" if float(value).is_integer() else repr(float(value))
    return f"{name}{{{named}}} {number}" if named else f"{name} {number}"


def installed_version() -> str:
    """Return the version of this program; `unknown` in a bento, where it is not installed."""
    try:
        return version("lookalike")
    except PackageNotFoundError:
        return "unknown"


def build_info(program: str, encoder: str) -> str:
    """Return the family that says what runs: always 1, its labels are what counts."""
    name = "lookalike_build_info"
    return (
        f"# HELP {name} The version of the service and the SHA-256 of its encoder.\n"
        f"# TYPE {name} gauge\n"
        f'{name}{{version="{program}",encoder="{encoder}"}} 1\n'
    )
