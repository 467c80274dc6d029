"""Images per second of an exported ResNet against torch and OpenVINO, in turns, on 2 threads.

    python -m benchmarks.export_speed [--short]

All ways compute the same: uint8 [N,224,224,3] to normalized embeddings. The weights are random,
which changes nothing in the arithmetic; int8 is calibrated on drawn images and made for this CPU
(7-bit weights where products of bytes saturate: `export/shrink/quantize_graph.py`), every layer in
8 bits. torch in bf16 is measured only where the CPU multiplies it; OpenVINO only where it is
installed. It reads the same two ONNX files.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import nn
from torchvision import models

from benchmarks.report import machine, publish
from benchmarks.timing import in_turns, ratio
from export.convert.onnx_graph import EncoderGraph, build_graph
from export.encoder_file.contract import EMBEDDINGS, INPUT
from export.encoder_file.session import make_session
from export.shrink.quantize_graph import measure_ranges, prepare, quantize, resolve_target, units_of
from export.verify.generated_images import generated_images

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx
    from numpy.typing import NDArray

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = ("resnet18", "resnet50")
BATCHES = (1, 8, 32)
THREADS = 2
RATIO_BATCH = 8  # the batch whose ratios are the metrics


def main() -> None:
    """Measure both networks and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 rounds instead of 11")
    rounds = 3 if parser.parse_args().short else 11
    torch.set_num_threads(THREADS)
    rates: dict[tuple[str, int], dict[str, list[float]]] = {}
    for name in NETWORKS:
        ways = ways_of(name)
        rates |= {(name, batch): contest(ways, batch, rounds) for batch in BATCHES}
    report(rates, rounds)


def ways_of(name: str) -> dict[str, Callable[[NDArray[np.uint8]], object]]:
    """Return the ways by name; each takes uint8 [N,S,S,3] and computes embeddings."""
    torch.manual_seed(0)
    network = getattr(models, name)()
    network.fc = nn.Identity()
    whole = EncoderGraph(network.eval(), MEAN, STD)
    model = build_graph(network, SIZE, MEAN, STD)
    prepared = prepare(model)
    ranges = measure_ranges(prepared, [generated_images(4, SIZE)])["minmax"]
    reduce_range = resolve_target("auto") == "avx2"
    int8 = quantize(prepared, ranges, units_of(prepared.graph), reduce_range=reduce_range)
    last = EncoderGraph(network, MEAN, STD).to(memory_format=torch.channels_last)
    ways = {
        "torch fp32": _torch_way(whole),
        "torch fp32 channels_last": _torch_way(last),
        "ORT fp32": _ort_way(model),
        "ORT int8": _ort_way(int8),
    }
    if _has_bf16():
        ways["torch bf16 channels_last"] = _torch_way(last, bf16=True)
    if importlib.util.find_spec("openvino"):
        ways |= {"OpenVINO fp32": _openvino_way(model), "OpenVINO int8": _openvino_way(int8)}
    return ways


def _has_bf16() -> bool:
    instructions = machine()["instructions"]
    return isinstance(instructions, list) and bool({"avx512_bf16", "amx_bf16"} & set(instructions))


def _torch_way(module: nn.Module, *, bf16: bool = False) -> Callable[[NDArray[np.uint8]], object]:
    @torch.inference_mode()
    def run(images: NDArray[np.uint8]) -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return module(torch.from_numpy(images))

    return run


def _ort_way(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], object]:
    session, _ = make_session(model.SerializeToString(), "cpu", THREADS)
    return lambda images: session.run([EMBEDDINGS], {INPUT: images})


def _openvino_way(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], object]:
    import io

    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(io.BytesIO(model.SerializeToString())), "CPU", settings
    )
    return lambda images: compiled([images])


def contest(
    ways: dict[str, Callable[[NDArray[np.uint8]], object]], batch: int, rounds: int
) -> dict[str, list[float]]:
    """Images per second of each way in each round; a round is at least 8 images."""
    images = generated_images(batch, SIZE)
    times = max(1, 8 // batch)

    def timed(way: Callable[[NDArray[np.uint8]], object]) -> Callable[[], int]:
        def work() -> int:
            for _ in range(times):
                way(images)
            return batch * times

        return work

    return in_turns({name: timed(way) for name, way in ways.items()}, rounds)


def report(rates: dict[tuple[str, int], dict[str, list[float]]], rounds: int) -> None:
    """Print the table and the JSON line."""
    table = Table(title=f"Pictures per second at {SIZE} px, {THREADS} threads (median)")
    for column in ("network", "batch", "way", "pictures/s", "of ORT fp32"):
        table.add_column(column, justify="left" if column in ("network", "way") else "right")
    for (name, batch), values_by_way in rates.items():
        for way, values in values_by_way.items():
            against = f"{ratio(values, values_by_way['ORT fp32']):.2f}"
            table.add_row(name, str(batch), way, f"{statistics.median(values):.1f}", against)
    small, large = (rates[name, RATIO_BATCH] for name in NETWORKS)
    best = max(
        (way for way in small if way.startswith("torch")), key=lambda w: statistics.median(small[w])
    )
    details: dict[str, object] = {
        "threads": THREADS,
        "rounds": rounds,
        "batch_of_metrics": RATIO_BATCH,
        "int8_target": resolve_target("auto"),
        "best_torch": best,
        "pictures_per_second": {
            f"{name} batch {batch}": {
                way: round(statistics.median(values), 1) for way, values in values_by_way.items()
            }
            for (name, batch), values_by_way in rates.items()
        },
    }
    if "torch bf16 channels_last" not in small:
        details["torch_bf16"] = "not measured: this CPU has no bf16 instructions"
    if "OpenVINO fp32" not in small:
        details["openvino"] = "not installed"
    publish(
        "export_speed",
        metrics={
            "int8_vs_fp32_resnet18": round(ratio(small["ORT int8"], small["ORT fp32"]), 2),
            "int8_vs_fp32_resnet50": round(ratio(large["ORT int8"], large["ORT fp32"]), 2),
            "int8_vs_best_torch_resnet18": round(ratio(small["ORT int8"], small[best]), 2),
        },
        details=details,
        tables=[table],
        packages=["torch", "torchvision", "onnx", "onnxruntime-gpu", "onnxruntime", "openvino"],
    )


if __name__ == "__main__":
    main()
