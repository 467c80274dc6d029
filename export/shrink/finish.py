"""The last steps of an export: scaled decode, then projection and precision, fitted on images."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from base.errors import UsageError
from base.progress import Silent
from export.convert.onnx_graph import Draft
from export.encoder_file.contract import FEATURES
from export.encoder_file.encoder_file import read_contract
from export.shrink.fp16 import halve_draft
from export.shrink.graph_output import graph_output
from export.shrink.pca import ReductionReport, reduce_draft
from export.shrink.quantize import QualityGate, QuantizationReport, quantize_draft
from images.pixels.preprocess import SCALED_DECODE
from training.data.cache import decode_source

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray

    from base.progress import Progress
    from export.shrink.quantize_graph import Target
    from images.items import RefusedImage
    from images.sources.sources import Source

Precision = Literal["fp32", "fp16", "int8"]
CALIBRATION_IMAGES = 384  # a third calibrates, two thirds are held out
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is done to a full-width fp32 encoder before it is written.

    Raises:
        UsageError: an option lacks the one it needs, or two exclude each other.
    """

    precision: Precision = "fp32"
    calibrate: Source | None = None
    target: Target = "auto"
    gate: QualityGate = field(default_factory=QualityGate)
    allow_loss: bool = False
    calibration_images: int = CALIBRATION_IMAGES
    embedding_dim: int | None = None
    fit: Source | None = None
    whiten: bool = False
    scaled_decode: bool = False

    def __post_init__(self) -> None:
        if (self.precision == "int8") != (self.calibrate is not None):
            raise UsageError("--precision int8 and --calibrate SOURCE belong together")
        if (self.embedding_dim is None) != (self.fit is None):
            raise UsageError("--embedding-dim E and --fit SOURCE belong together")
        if self.whiten and self.fit is None:
            raise UsageError("--whiten needs --embedding-dim E and --fit SOURCE")

    @property
    def does_nothing(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.precision == "fp32" and self.embedding_dim is None and not self.scaled_decode


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An encoder to write, and what was measured while it was finished."""

    draft: Draft
    reduction: ReductionReport | None
    quantization: QuantizationReport | None
    refused: tuple[RefusedImage, ...]


def read_draft(path: str | os.PathLike[str]) -> Draft:
    """Read an encoder file as a draft that can be changed.

    Raises:
        ArtifactError: the file is missing, damaged or not an encoder.
    """
    contract = read_contract(path)
    return Draft(model=onnx.load(path), contract=contract)


def finish(draft: Draft, todo: Finish, progress: Progress | None = None) -> Finished:
    """Apply projection and precision to a full-width fp32 encoder.

    Raises:
        UsageError: too few images, or a number that does not fit.
        SourceError: no image of a source can be used.
        LossTooGreat: int8 loses too much.
    """
    refused: list[RefusedImage] = []
    reduction, quantization = None, None
    if todo.scaled_decode:
        draft = _scaled(draft)
    if todo.embedding_dim is not None and todo.fit is not None:
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            fitted = decode_source(
                todo.fit, draft.contract.preprocess, folder=Path(folder), progress=progress
            )
            refused.extend(fitted.refused)
            features = features_of(draft.model, fitted.images, progress)
            draft, reduction = reduce_draft(
                draft,
                features,
                fitted.labels,
                todo.embedding_dim,
                whiten=todo.whiten,
                source=Path(todo.fit.name).name,  # no folders in the file
            )
    if todo.calibrate is not None:
        calibrated = decode_source(
            todo.calibrate,
            draft.contract.preprocess,
            limit=todo.calibration_images,
            progress=progress,
        )
        refused.extend(calibrated.refused)
        draft, quantization = quantize_draft(
            draft,
            calibrated.images,
            target=todo.target,
            gate=todo.gate,
            allow_loss=todo.allow_loss,
            progress=progress,
        )
    elif todo.precision == "fp16":
        draft = halve_draft(draft)
    return Finished(
        draft=draft, reduction=reduction, quantization=quantization, refused=tuple(refused)
    )


def _scaled(draft: Draft) -> Draft:
    """Return the same encoder for images decoded smaller, where that keeps their embeddings."""
    spec = replace(draft.contract.preprocess, scaled_decode=SCALED_DECODE)
    return replace(draft, contract=replace(draft.contract, preprocess=spec))


def features_of(
    model: onnx.ModelProto, images: NDArray[np.uint8], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Return the features [N,D] that a graph in memory computes; images may be memory-mapped."""
    progress = progress or Silent()
    progress.begin("encoding", len(images))
    try:
        return graph_output(model, FEATURES, images, BATCH, lambda done, _: progress.update(done))
    finally:
        progress.end()
