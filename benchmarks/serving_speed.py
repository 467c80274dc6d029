"""The service against its own model without HTTP, and against two other servers, on this machine.

    python -m benchmarks.serving_speed [--short] [--int8 FILE]

ResNet-18 at 224 px with random weights, exported by this project; the same real JPEGs (some 30 KB)
for all. Each server is a process; `benchmarks.load` loads it over loopback from another one, on the
same cores: what the load takes counts against the servers, not against the in-process figure. The
measurements of a round follow each other; all servers but the one measured are stopped (SIGSTOP).

In process: decoding threads beside one ONNX Runtime session, batches of 16, as extraction does it
(`serving.embedding.embed`); and image by image for the single client's figure.

`of_inprocess_*` is the lower of two: one image a request from 32 clients, 16 images a request
from 4. `p99_over_p50_at_70`: p99 at a constant 70 % of capacity (the median of three windows) over
the median of a single client.
`overload_throughput`: good answers at a constant 300 % of capacity over capacity.
"""

import argparse
import importlib.util
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.report import publish
from benchmarks.sample_images import photos, quantize_random, random_resnet
from benchmarks.serving_contest import Contest, console, contest, latency
from benchmarks.timing import ratio

RIVALS = ("bentoml", "litserve")


def main() -> None:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 rounds of 5 s instead of 7 of 15 s")
    parser.add_argument("--int8", type=Path, help="an int8 encoder file instead of a new one")
    parser.add_argument("--rounds", type=int, help="rounds, for a quick look")
    parser.add_argument("--seconds", type=float, help="seconds of one measurement")
    parser.add_argument("--alone", action="store_true", help="without the other servers")
    parser.add_argument("--no-fp32", action="store_true", help="only the int8 encoder")
    options = parser.parse_args()
    seconds = options.seconds or (5 if options.short else 15)
    rounds = options.rounds or (3 if options.short else 7)
    images, what = photos(256)
    rivals = [] if options.alone else [r for r in RIVALS if importlib.util.find_spec(r)]
    details: dict[str, object] = {"pictures": what, "rounds": rounds, "seconds": seconds}
    measurements: dict[str, Measurement] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"fp32": None if options.no_fp32 else random_resnet(folder / "fp32.onnx")}
        files["int8"] = options.int8
        if options.int8 is None:
            made = folder / "int8.onnx"
            why = quantize_random(images[:64], folder, made)
            files["int8"] = made if why is None else None
            details["int8"] = why and f"not measured: {why}"
        for precision, path in files.items():
            if path is not None:
                console.rule(precision)
                with contest(path, images, folder / precision, seconds, rivals) as fight:
                    fight.throughput(rounds)
                    measurements[precision] = Measurement(fight, latency(fight, 3 * seconds))
    report(measurements, details)


@dataclass
class Measurement:
    """What was measured with one encoder."""

    fight: Contest
    times: dict[str, float]


def report(measurements: dict[str, Measurement], details: dict[str, object]) -> None:
    """Print the tables and the JSON line; latencies are those of fp32 where that was measured."""
    tables = []
    for precision, one in measurements.items():
        table = Table(title=f"ResNet-18 at 224 px, {precision}: pictures per second (median)")
        for column in ("way", "pictures/s", "of in process"):
            table.add_column(column, justify="left" if column == "way" else "right")
        for way, values in one.fight.rates.items():
            of = ratio(values, one.fight.rates["in process"])
            table.add_row(way, f"{statistics.median(values):.1f}", f"{of:.2f}")
        tables.append(table)
        details[precision] = {
            "pictures_per_second": {w: _rounded(v) for w, v in one.fight.rates.items()},
            "times": {name: round(value, 3) for name, value in one.times.items()},
        }
    fp32, int8 = measurements.get("fp32"), measurements.get("int8")
    main = fp32 or int8
    assert main is not None
    metrics = {
        "of_inprocess_fp32": fp32.fight.of_in_process() if fp32 else None,
        "of_inprocess_int8": int8.fight.of_in_process() if int8 else None,
        "added_ms_single": main.times["added_ms"],
        "p99_over_p50_at_70": main.times["p99_over_p50"],
        "overload_throughput": main.times["overload"],
        **{f"vs_{rival}": _least(measurements, rival) for rival in RIVALS},
    }
    publish(
        "serving_speed",
        metrics={k: None if v is None else round(v, 3) for k, v in metrics.items()},
        details=details,
        tables=tables,
        packages=["onnxruntime-gpu", "onnxruntime", "bentoml", "litserve", "pillow", "uvicorn"],
    )


def _least(measurements: dict[str, Measurement], rival: str) -> float | None:
    """Against a rival: the lower of fp32 and int8."""
    ratios = [one.fight.against(rival) for one in measurements.values()]
    return min((r for r in ratios if r is not None), default=None)


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]


if __name__ == "__main__":
    main()
