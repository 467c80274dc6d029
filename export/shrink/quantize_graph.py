"""A float graph to one with 8-bit layers, by `onnxruntime.quantization`: ranges, units, QDQ nodes.

Values between layers become uint8 with one scale and zero point per tensor, weights int8 with one
scale per output channel, biases int32. ONNX Runtime joins the QuantizeLinear and DequantizeLinear
nodes (QDQ) with the layers between them to QLinearConv, QLinearAdd and the like.

x86 CPUs without VNNI multiply bytes with VPMADDUBSW, which adds two products in 16 bits and
saturates: 2 x 255 x 127 is too much. For them weights have 7 bits (`reduce_range`). What that
costs in precision is small, and unsigned weights, which do not saturate, are slower by 40 %.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from base.cpus import CPUINFO, cpu_flags
from export.encoder_file.contract import FEATURES, INPUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Target = Literal["auto", "vnni", "avx2"]
TARGETS: tuple[Target, ...] = ("auto", "vnni", "avx2")
WIDE_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}

WEIGHTED = ("Conv", "MatMul", "Gemm")
FOLLOWERS = ("Relu", "Clip", "MaxPool")  # they keep what precedes them in 8 bits
ADDABLE = {*FOLLOWERS, "Conv", "Add"}
BINS, ENTROPY_LEVELS = 512, 128
PERCENTILES = (99.999, 99.99, 99.9)
METHODS = ("minmax", *(f"percentile {share}" for share in PERCENTILES), "entropy")

Range = tuple[float, float]
Ranges = dict[str, Range]  # by tensor


def resolve_target(target: Target, cpuinfo: Path = CPUINFO) -> Literal["vnni", "avx2"]:
    """Return what "auto" means on this machine: "vnni" only where the CPU says that it is safe."""
    if target != "auto":
        return target
    return "vnni" if cpu_flags(cpuinfo) & WIDE_PRODUCTS else "avx2"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is in 8 bits or in float as a whole: a layer, and the activations that follow it.

    Attributes:
        name: of the layer's node.
        kind: its operator.
        nodes: names of the nodes that belong to it.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose nodes all have names and whose tensors all have types."""
    prepared = copy.deepcopy(model)
    for number, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return onnx.shape_inference.infer_shapes(prepared)


def units_of(graph: onnx.GraphProto) -> list[Unit]:
    """Return the layers that can be in 8 bits, in the order of the graph.

    These are convolutions and products with constant weights, and the sums that join the branches
    of a convolutional network. The rest stays in float: attention, norms, all after the features.
    """
    constant = {value.name for value in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    units = []
    after_features = {FEATURES}
    for node in graph.node:
        if after_features & set(node.input):  # L2 and projection
            after_features |= set(node.output)
            continue
        if not _can_be_quantized(node, constant, producer):
            continue
        chain, last = [node.name], node
        while len(following := users.get(last.output[0], [])) == 1:
            if following[0].op_type not in FOLLOWERS:
                break
            last = following[0]
            chain.append(last.name)
        units.append(Unit(name=node.name, kind=node.op_type, nodes=tuple(chain)))
    return units


def _can_be_quantized(
    node: onnx.NodeProto, constant: set[str], producer: dict[str, onnx.NodeProto]
) -> bool:
    if node.op_type in WEIGHTED:
        return node.input[1] in constant
    return node.op_type == "Add" and all(
        name in producer and producer[name].op_type in ADDABLE for name in node.input
    )


# --- ranges --------------------------------------------------------------------------------------


class _Reader:
    """Gives ONNX Runtime's calibrators one batch."""

    def __init__(self, batch: NDArray[np.uint8]) -> None:
        self._batches = [{INPUT: batch}]

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return self._batches.pop() if self._batches else None


def measure_ranges(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.uint8]]
) -> dict[str, Ranges]:
    """Return the range of every tensor over calibration images, by each of `METHODS`.

    All methods read the same histograms, so the images go through the network once.

    Args:
        model: from `prepare`.
        batches: uint8 [n,S,S,C] each.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder, quiet():
        path = Path(folder) / "float.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            [*WEIGHTED, *FOLLOWERS, "Add"],
            str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"num_bins": BINS},
        )
        for batch in batches:  # one at a time: a calibrator keeps all tensors of a batch
            calibrator.collect_data(_Reader(batch))
        collector = calibrator.collector
    with quiet():
        ranges: dict[str, Ranges] = {
            "minmax": {
                name: (entry[2], entry[3]) for name, entry in collector.histogram_dict.items()
            }
        }
        for share in PERCENTILES:
            collector.percentile = share
            ranges[f"percentile {share}"] = _pairs(collector.compute_percentile())
        collector.num_quantized_bins = ENTROPY_LEVELS
        ranges["entropy"] = _pairs(collector.compute_entropy())
    return {method: _floats(measured) for method, measured in ranges.items()}


def _pairs(limits: dict[str, tuple[float, ...]]) -> Ranges:
    return {name: (values[0], values[1]) for name, values in limits.items()}


def _floats(ranges: Ranges) -> Ranges:
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


# --- the 8-bit graph -----------------------------------------------------------------------------


def quantize(
    model: onnx.ModelProto, ranges: Ranges, units: Iterable[Unit], *, reduce_range: bool
) -> onnx.ModelProto:
    """Put units into 8 bits; the rest stays in float.

    Args:
        model: from `prepare`; it is not changed.
        ranges: of its tensors.
        units: what to put into 8 bits.
        reduce_range: weights in 7 bits, for CPUs whose products saturate.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    selected = [name for unit in units for name in unit.nodes]
    if not selected:
        return copy.deepcopy(model)
    data = TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
    )
    with quiet():
        quantizer = QDQQuantizer(
            copy.deepcopy(model),
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=data,
            nodes_to_quantize=selected,
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, *FOLLOWERS, "Add"],
            extra_options={"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    del quantized.graph.value_info[:]
    return quantized


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what onnxruntime.quantization prints and logs through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
