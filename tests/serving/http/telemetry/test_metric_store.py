"""Metrics of one process and of several, and how Prometheus reads them."""

import multiprocessing
from pathlib import Path

import pytest

from serving.http.telemetry.metric_store import (
    Key,
    LocalMetricStore,
    MetricStore,
    SharedMetricStore,
)
from serving.http.telemetry.metrics import CONTENT_TYPE, Metrics

A: Key = ("a", ())
B: Key = ("b", (("route", "/embed"), ("le", '0.5"ü')))


def count(folder: Path, slot: int, times: int) -> None:
    store = SharedMetricStore(folder, slot)
    for _ in range(times):
        store.add(A, 1)
        store.add(B, 0.5)


@pytest.mark.parametrize("shared", [False, True])
def test_values_are_kept(tmp_path: Path, shared: bool) -> None:
    store: MetricStore = SharedMetricStore(tmp_path, 0) if shared else LocalMetricStore()
    assert store.collect() == {}
    store.add(A, 1)
    store.add(B, 0.25)
    store.add(A, 2)
    store.set(B, 7)
    assert store.collect() == {A: 3, B: 7}


def test_values_of_all_workers_are_added_up(tmp_path: Path) -> None:
    """Read while others write, the sum never goes back."""
    reader = SharedMetricStore(tmp_path, 0)
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=count, args=(tmp_path, n, 20_000)) for n in (1, 2)]
    for one in others:
        one.start()
    seen = [0.0]
    while any(one.is_alive() for one in others):
        seen.append(reader.collect().get(A, 0.0))
    for one in others:
        one.join()
        assert one.exitcode == 0
    assert seen == sorted(seen)
    assert reader.collect() == {A: 40_000, B: 20_000}


def test_a_worker_continues_where_the_one_before_it_ended(tmp_path: Path) -> None:
    first = SharedMetricStore(tmp_path, 3)
    first.add(A, 5)
    again = SharedMetricStore(tmp_path, 3)
    again.add(A, 1)
    again.add(B, 1)
    assert again.collect() == {A: 6, B: 1}
    assert [path.name for path in tmp_path.iterdir()] == ["3.figures"]


def test_a_new_worker_has_nothing_under_way(tmp_path: Path) -> None:
    before = Metrics(SharedMetricStore(tmp_path, 0))
    before.requests.add(method="GET")
    before.admitted.set(12)
    after = Metrics(SharedMetricStore(tmp_path, 0)).text(None).splitlines()
    assert 'lookalike_requests_total{method="GET"} 1' in after
    assert "lookalike_images_admitted 0" in after


def test_every_combination_of_labels_has_room(tmp_path: Path) -> None:
    metrics = Metrics(SharedMetricStore(tmp_path, 0))
    for method in (*"ABCDEFGH",):
        for route in range(40):
            path = f"/v2/models/{{model}}/infer/{route:02}"
            for status in range(20):
                metrics.requests.add(method=f"OPTIONS-{method}", route=path, status=str(status))
    for route in range(40):
        for value in (0.0001, *(2.0**power for power in range(-10, 6))):
            metrics.seconds.observe(value, route=f"/v2/models/{{model}}/infer/{route:02}")
    assert metrics.text(0).count("\n") > 8 * 40 * 20


def test_histograms_are_cumulative_and_counters_exact() -> None:
    metrics = Metrics(LocalMetricStore())
    for value in (0.5, 3, 3, 1000):
        metrics.batch_images.observe(value)
    metrics.images.add(12_345_678, outcome="embedded")
    metrics.images.add(1, outcome="embedded")
    text = metrics.text(1_234_567)
    lines = [line for line in text.splitlines() if line.startswith("lookalike_batch_images")]
    assert lines == [
        *(f'lookalike_batch_images_bucket{{le="{le}"}} {n}' for le, n in ((1, 1), (2, 1), (4, 3))),
        *(f'lookalike_batch_images_bucket{{le="{le}"}} 3' for le in (8, 16, 32, 64, 128)),
        'lookalike_batch_images_bucket{le="+Inf"} 4',
        "lookalike_batch_images_sum 1006.5",
        "lookalike_batch_images_count 4",
    ]
    assert 'lookalike_images_total{outcome="embedded"} 12345679\n' in text
    assert text.endswith("lookalike_items 1234567\n")


def test_names_kinds_and_help_are_a_contract() -> None:
    text = Metrics(LocalMetricStore()).text(0)
    heads = [line[7:] for line in text.splitlines() if line.startswith(("# HELP ", "# TYPE "))]
    assert dict(zip(heads[::2], heads[1::2], strict=True)) == {
        f"lookalike_{help_text}": f"lookalike_{help_text.split()[0]} {kind}"
        for kind, help_text in (
            ("counter", "requests_total Requests by route and answer."),
            ("histogram", "request_seconds Seconds from a request's head to its answer."),
            ("counter", "refused_total Refused requests by error type."),
            ("counter", "images_total Images by outcome: embedded or refused."),
            ("histogram", "batch_images Images in a batch."),
            ("histogram", "batch_seconds Seconds of the encoder for a batch."),
            ("histogram", "queue_seconds Longest wait of a request's images for a batch."),
            ("histogram", "decode_seconds Seconds to decode and resize an image."),
            ("gauge", "images_admitted Images being decoded or embedded."),
            ("gauge", "body_bytes Bytes of the bodies of all requests under way."),
            ("gauge", "resident_bytes Memory that all workers hold, half a minute old at most."),
            ("gauge", "items Items in the collection."),
            ("gauge", "storage_failing Workers whose last change the disk did not take."),
        )
    }
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
