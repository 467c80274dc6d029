"""An encoder in 8 bits that is still the same encoder: search, gate, report.

1. The images are parted at random into calibration and held-out images.
2. Ranges are measured on calibration images by every method of `quantize_graph.METHODS`; the
   method whose wholly quantized network comes nearest to the float one, on calibration images, is
   taken.
3. Each layer is quantized alone. Its cost is 1 - the mean cosine of the embeddings to the float
   network's, on calibration images.
4. The gate looks at held-out images: mean cosine and the overlap of the 10 nearest neighbors.
   While it is shut, the costliest layers go back to float: 1, 2, 4, ... of them, then the fewest
   between the last two numbers. Half of the layers at most: past that there is no use in it.
5. If it stays shut, nothing is written (`LossTooGreat`), unless the loss is allowed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from base.errors import LookalikeError, UsageError
from export.convert.onnx_graph import Draft
from export.encoder_file.encoder_file import EMBEDDINGS, INPUT
from export.encoder_file.session import make_session
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
from export.verify.measures import cosines, neighbor_overlap

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from numpy.typing import NDArray

    from export.shrink.quantize_graph import Ranges

    Found = tuple[onnx.ModelProto, "QuantizationReport"]
    from base.progress import Progress

NEIGHBORS = 10
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
class Gate:
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
        """For JSON and for the file's `quality`."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}


def quantize_draft(
    draft: Draft,
    images: NDArray[np.uint8],
    *,
    target: Target = "auto",
    gate: Gate | None = None,
    allow_loss: bool = False,
    progress: Progress | None = None,
) -> tuple[Draft, QuantizationReport]:
    """Put an encoder into 8 bits.

    Args:
        draft: in fp32.
        images: uint8 [N,S,S,3], real ones, at least 32; a third calibrates, the rest decides.
        target: the CPU that the file is for; "auto": one like this machine's.
        gate: what must be kept.
        allow_loss: go on where the gate stays shut.
        progress: shows how many layers were tried.

    Returns:
        the draft in int8, with the report under `quality["int8"]`, and the report.

    Raises:
        UsageError: too few images, or an encoder without a layer that can be in 8 bits.
        LossTooGreat: the gate stays shut.
    """
    if len(images) < LEAST_IMAGES:
        raise UsageError(
            f"{len(images)} pictures are too few to calibrate int8: give at least {LEAST_IMAGES}"
        )
    order = np.random.default_rng(0).permutation(len(images))
    part = max(LEAST_IMAGES // 2, len(images) // 3)
    search = _Search(
        draft.model, images[order[:part]], images[order[part:]], resolve_target(target), progress
    )
    model, report = search.find(gate or Gate())
    if not report.passed and not allow_loss:
        raise LossTooGreat(_words(report, gate or Gate()), report)
    contract = replace(
        draft.contract,
        precision="int8",
        quality=draft.contract.quality | {"int8": report.to_dict()},
    )
    return Draft(model=model, contract=contract), report


def _words(report: QuantizationReport, gate: Gate) -> str:
    worst = max(report.layers, key=lambda layer: layer.cost)
    cosine, overlap = f"{report.mean_cosine:.4f}", f"{report.overlap:.3f}"
    return (
        f"int8 loses too much: mean cosine {cosine} (must be >= {gate.min_cosine:g}), "
        f"overlap@{NEIGHBORS} {overlap} (must be >= {gate.min_overlap:g}), costliest "
        f"layer {worst.name} ({worst.cost:.2g}); nothing was written: calibrate on more pictures "
        "of the kind that will be searched, or --allow-loss"
    )


class _Search:
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

    def find(self, gate: Gate) -> tuple[onnx.ModelProto, QuantizationReport]:
        """Return the network with the fewest layers in float that passes, or with none in float."""
        method, methods, ranges = self.choose_method()
        layers = self.costs(ranges)
        ranked = sorted(layers, key=lambda layer: -layer.cost)

        def attempt(count: int) -> tuple[onnx.ModelProto, QuantizationReport]:
            kept = {layer.name for layer in ranked[:count]}
            model = self.built(ranges, [unit for unit in self.units if unit.name not in kept])
            found = embed(model, self.held_out)
            cosine = cosines(found, self.expected_held_out)
            overlap = neighbor_overlap(found, self.expected_held_out, NEIGHBORS)
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

    def choose_method(self) -> tuple[str, dict[str, float], Ranges]:
        """Name, mean cosines of all, and ranges of the best method."""
        size = self.calibration.shape[1]
        step = max(1, CALIBRATION_BATCH_PIXELS // size**2)
        count = len(self.calibration)
        found = measure_ranges(
            self.model, (self.calibration[i : i + step] for i in range(0, count, step))
        )
        scores = {name: self.nearness(self.built(found[name], self.units)) for name in METHODS}
        best = max(scores, key=lambda name: scores[name])
        return best, scores, found[best]

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
        """Mean cosine to the float network over the first `count` calibration images."""
        found = embed(model, self.calibration[:count])
        return float(cosines(found, self.expected[:count]).mean())


def fewest(attempt: Callable[[int], Found], most: int) -> Found:
    """Return the attempt that passes with the fewest layers in float; with none where none passes.

    Passing is taken to be monotonic in the count, which it nearly is.
    """
    first = attempt(0)
    if first[1].passed or most < 1:
        return first
    failed, count = 0, 1
    found = attempt(count)
    while not found[1].passed and count < most:
        failed, count = count, min(2 * count, most)
        found = attempt(count)
    if not found[1].passed:
        return first
    while count - failed > 1:
        middle = (failed + count) // 2
        tried = attempt(middle)
        if tried[1].passed:
            found, count = tried, middle
        else:
            failed = middle
    return found


def embed(model: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings [N,E] by a graph in memory, on the CPU."""
    session, _ = make_session(model.SerializeToString(), "cpu")
    parts = [
        session.run([EMBEDDINGS], {INPUT: images[start : start + BATCH]})[0]
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts)
