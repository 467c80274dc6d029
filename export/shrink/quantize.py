"""An encoder in 8 bits that is still the same encoder: search, gate, report.

1. The images are split at random into calibration and held-out images.
2. Ranges are measured on calibration images by every method of `quantize_graph.METHODS`. The
   method is used whose fully quantized network comes nearest to the float one on these images.
3. Each layer is quantized alone. Its cost is 1 - the mean cosine of the embeddings to the float
   network's, on calibration images.
4. The quality gate looks at held-out images: mean cosine and the overlap of the 10 nearest
   neighbors. While it fails, the costliest layers go back to float: 1, 2, 4, ... of them, then the
   fewest between the last two numbers; at most half of the layers, beyond which int8 gains nothing.
5. If it still fails, nothing is written (`LossTooGreat`), unless the loss is allowed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from base.errors import LookalikeError, UsageError
from export.convert.onnx_graph import Draft
from export.encoder_file.contract import EMBEDDINGS
from export.shrink.graph_output import graph_output
from export.shrink.quantize_graph import (
    METHODS,
    Target,
    Unit,
    measure_ranges,
    prepare,
    quantize,
    resolve_target,
    units_of,
)
from export.verify.measures import NEIGHBORS, cosines, neighbor_overlap

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from numpy.typing import NDArray

    from base.progress import Progress
    from export.shrink.quantize_graph import Ranges

    Attempt = tuple[onnx.ModelProto, "QuantizationReport"]

BATCH = 16
CALIBRATION_BATCH_PIXELS = 8 * 224 * 224  # a calibrator holds all tensors of a batch
LEAST_IMAGES = 32
RANKING = 24  # calibration images on which layers are compared


class LossTooGreat(LookalikeError):  # noqa: N818 - a verdict, as ImageRefused is
    """The 8-bit encoder is not the same encoder; `report` says what costs how much."""

    def __init__(self, message: str, report: QuantizationReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, kw_only=True)
class QualityGate:
    """What an 8-bit encoder has to keep, on held-out images."""

    min_cosine: float = 0.99  # mean
    min_overlap: float = 0.90  # of 10 neighbors


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one layer costs: 1 - mean cosine with only this layer in 8 bits."""

    name: str
    kind: str
    cost: float
    in_float: bool = False


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was done and what it cost; cosines and overlap are to the float encoder."""

    target: Literal["vnni", "avx2"]
    method: str
    methods: dict[str, float]  # mean cosine on calibration images
    mean_cosine: float  # on held-out images, as the next two
    min_cosine: float
    overlap: float
    passed: bool
    calibration: int
    held_out: int
    layers: tuple[Layer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON and for the file's `quality`."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}


def quantize_draft(
    draft: Draft,
    images: NDArray[np.uint8],
    *,
    target: Target = "auto",
    gate: QualityGate | None = None,
    allow_loss: bool = False,
    progress: Progress | None = None,
) -> tuple[Draft, QuantizationReport]:
    """Put an encoder into 8 bits.

    Args:
        draft: in fp32.
        images: uint8 [N,S,S,C], real ones, at least 32; a third calibrates, the rest decides.
        target: the CPU that the file is for; "auto": one like this machine's.
        gate: what must be kept.
        allow_loss: return the draft although it does not pass the gate.
        progress: shows how many layers were tried.

    Returns:
        the draft in int8, with the report under `quality["int8"]`, and the report.

    Raises:
        UsageError: too few images, or an encoder without a layer that can be in 8 bits.
        LossTooGreat: it does not pass the gate.
    """
    if len(images) < LEAST_IMAGES:
        raise UsageError(
            f"{len(images)} pictures are too few to calibrate int8: give at least {LEAST_IMAGES}"
        )
    order = np.random.default_rng(0).permutation(len(images))
    calibration, held_out = np.split(order, [max(LEAST_IMAGES // 2, len(images) // 3)])
    search = _Search(
        draft.model, images[calibration], images[held_out], resolve_target(target), progress
    )
    gate = gate or QualityGate()
    model, report = search.find(gate)
    if not report.passed and not allow_loss:
        raise LossTooGreat(_failure(report, gate), report)
    contract = replace(
        draft.contract,
        precision="int8",
        quality=draft.contract.quality | {"int8": report.to_dict()},
    )
    return Draft(model=model, contract=contract), report


def _failure(report: QuantizationReport, gate: QualityGate) -> str:
    worst = max(report.layers, key=lambda layer: layer.cost)
    cosine, overlap = f"{report.mean_cosine:.4f}", f"{report.overlap:.3f}"
    return (
        f"int8 loses too much: mean cosine {cosine} (must be >= {gate.min_cosine:g}), "
        f"overlap@{NEIGHBORS} {overlap} (must be >= {gate.min_overlap:g}), costliest "
        f"layer {worst.name} ({worst.cost:.2g}); nothing was written: calibrate on more pictures "
        "of the kind that will be searched, or --allow-loss"
    )


class _Search:
    """Finds the best method, the cost of each layer, and which layers stay in float."""

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: NDArray[np.uint8],
        held_out: NDArray[np.uint8],
        target: Literal["vnni", "avx2"],
        progress: Progress | None,
    ) -> None:
        self.model = prepare(model)
        self.units = units_of(self.model.graph)
        if not self.units:
            raise UsageError("the encoder has no layer that can be in 8 bits: export it as fp32")
        self.calibration, self.held_out = calibration, held_out
        self.target, self.progress = target, progress
        self.expected = embed(self.model, calibration)
        self.expected_held_out = embed(self.model, held_out)

    def find(self, gate: QualityGate) -> Attempt:
        """Return the network with the fewest layers in float that passes, or with none in float."""
        method, methods, ranges = self.best_method()
        layers = self.costs(ranges)
        ranked = sorted(layers, key=lambda layer: -layer.cost)

        def attempt(count: int) -> Attempt:
            kept = {layer.name for layer in ranked[:count]}
            model = self.built(ranges, [unit for unit in self.units if unit.name not in kept])
            embeddings = embed(model, self.held_out)
            cosine = cosines(embeddings, self.expected_held_out)
            overlap = neighbor_overlap(embeddings, self.expected_held_out, NEIGHBORS)
            return model, QuantizationReport(
                target=self.target,
                method=method,
                methods=methods,
                mean_cosine=float(cosine.mean()),
                min_cosine=float(cosine.min()),
                overlap=overlap,
                passed=bool(cosine.mean() >= gate.min_cosine and overlap >= gate.min_overlap),
                calibration=len(self.calibration),
                held_out=len(self.held_out),
                layers=tuple(replace(layer, in_float=layer.name in kept) for layer in layers),
            )

        return fewest(attempt, len(layers) // 2)

    def best_method(self) -> tuple[str, dict[str, float], Ranges]:
        """Return the name of the best method, the mean cosines of all, and its ranges."""
        size = self.calibration.shape[1]
        step = max(1, CALIBRATION_BATCH_PIXELS // size**2)
        count = len(self.calibration)
        ranges = measure_ranges(
            self.model, (self.calibration[i : i + step] for i in range(0, count, step))
        )
        scores = {name: self.nearness(self.built(ranges[name], self.units)) for name in METHODS}
        best = max(scores, key=lambda name: scores[name])
        return best, scores, ranges[best]

    def costs(self, ranges: Ranges) -> list[Layer]:
        """Return what each layer costs alone."""
        layers = []
        if self.progress:
            self.progress.begin("trying layers in int8", len(self.units))
        try:
            for unit in self.units:
                nearness = self.nearness(self.built(ranges, [unit]), RANKING)
                layers.append(Layer(name=unit.name, kind=unit.kind, cost=max(0.0, 1 - nearness)))
                if self.progress:
                    self.progress.update(len(layers))
        finally:
            if self.progress:
                self.progress.end()
        return layers

    def built(self, ranges: Ranges, units: list[Unit]) -> onnx.ModelProto:
        return quantize(self.model, ranges, units, reduce_range=self.target == "avx2")

    def nearness(self, model: onnx.ModelProto, count: int | None = None) -> float:
        """Return the mean cosine to the float network over the first `count` calibration images."""
        embeddings = embed(model, self.calibration[:count])
        return float(cosines(embeddings, self.expected[:count]).mean())


def fewest(attempt: Callable[[int], Attempt], most: int) -> Attempt:
    """Return the attempt that passes with the fewest layers in float; with none where none passes.

    Passing is assumed to be monotonic in the count, which it nearly is.
    """
    first = attempt(0)
    if first[1].passed or most < 1:
        return first
    failed, count = 0, 1
    best = attempt(count)
    while not best[1].passed and count < most:
        failed, count = count, min(2 * count, most)
        best = attempt(count)
    if not best[1].passed:
        return first
    while count - failed > 1:
        middle = (failed + count) // 2
        halfway = attempt(middle)
        if halfway[1].passed:
            best, count = halfway, middle
        else:
            failed = middle
    return best


def embed(model: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the embeddings [N,E] that a graph in memory computes on the CPU."""
    return graph_output(model, EMBEDDINGS, images, BATCH)
