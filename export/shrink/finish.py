"""The last steps of an export: scaled decode, then projection and precision, fitted on images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from base.errors import UsageError
from export.convert.onnx_graph import Draft
from export.encoder_file.encoder_file import read_contract
from export.shrink.append_projection import append_projection
from export.shrink.choose_projection import choose_projection
from export.shrink.fitting_features import embed_source
from export.shrink.fp16 import halve_draft
from export.shrink.pca import ReductionReport, reduce_draft
from export.shrink.quantize import QualityGate, QuantizationReport, quantize_draft
from images.pixels.preprocess import SCALED_DECODE
from training.data.cache import decode_source

if TYPE_CHECKING:
    import os

    from base.progress import Progress
    from export.shrink.choose_projection import ProjectionReport
    from export.shrink.fitting_features import FittingFeatures
    from export.shrink.quantize_graph import Target
    from images.items import RefusedImage
    from images.sources.sources import Source

Precision = Literal["fp32", "fp16", "int8"]
ProjectionKind = Literal["auto", "none", "center", "pca", "whiten", "neighbors"]
CALIBRATION_IMAGES = 384  # a third calibrates, two thirds are held out


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
    projection: ProjectionKind = "auto"
    scaled_decode: bool = False

    def __post_init__(self) -> None:
        if (self.precision == "int8") != (self.calibrate is not None):
            raise UsageError("--precision int8 and --calibrate SOURCE belong together")
        if self.embedding_dim is not None and self.fit is None:
            raise UsageError("--embedding-dim E needs --fit SOURCE, the pictures it is fitted on")
        if self.whiten and (self.fit is None or self.embedding_dim is None):
            raise UsageError("--whiten needs --embedding-dim E and --fit SOURCE")
        kind = self.projection
        if kind != "auto" and self.fit is None:
            raise UsageError(
                f"--projection {kind} needs --fit SOURCE, the pictures it is fitted on"
            )
        if kind in ("pca", "whiten") and self.embedding_dim is None:
            raise UsageError(f"--projection {kind} needs --embedding-dim E")
        if kind in ("none", "center") and self.embedding_dim is not None:
            raise UsageError(f"--projection {kind} keeps all numbers: leave --embedding-dim out")
        if self.whiten and kind not in ("auto", "whiten"):
            raise UsageError(f"--whiten and --projection {kind} exclude each other")

    @property
    def does_nothing(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.precision == "fp32" and not self.projects and not self.scaled_decode

    @property
    def projects(self) -> bool:
        """Whether a projection is fitted, or looked for."""
        return self.fit is not None and self.projection != "none"

    @property
    def reduces(self) -> bool:
        """Whether it is a PCA to fewer numbers."""
        return self.embedding_dim is not None and self.projection != "neighbors"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An encoder to write, and what was measured while it was finished."""

    draft: Draft
    reduction: ReductionReport | None
    projection: ProjectionReport | None
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
    reduction, projection, quantization = None, None, None
    if todo.scaled_decode:
        draft = _scaled(draft)
    if todo.fit is not None and todo.projects:
        fitting = embed_source(draft, todo.fit, progress)
        refused.extend(fitting.refused)
        draft, reduction, projection = _project(draft, todo, fitting)
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
        draft=draft,
        reduction=reduction,
        projection=projection,
        quantization=quantization,
        refused=tuple(refused),
    )


def _project(
    draft: Draft, todo: Finish, fitting: FittingFeatures
) -> tuple[Draft, ReductionReport | None, ProjectionReport | None]:
    """Append the projection that is requested, or that helps, and report it."""
    assert todo.fit is not None
    source = Path(todo.fit.name).name  # no folders in the file
    if todo.reduces:
        assert todo.embedding_dim is not None
        draft, reduction = reduce_draft(
            draft,
            fitting.features,
            fitting.labels,
            todo.embedding_dim,
            whiten=todo.whiten or todo.projection == "whiten",
            source=source,
        )
        return draft, reduction, None
    if draft.contract.fit_digest:
        raise UsageError("the encoder's embeddings are projected already: start from its run")
    selected, report = choose_projection(
        fitting, todo.projection, width=todo.embedding_dim, source=source
    )
    if selected is None:
        return draft, None, report
    contract = replace(
        draft.contract,
        embedding_dim=selected.width,
        quality=draft.contract.quality | {"projection": report.to_dict()},
    )
    model = append_projection(draft.model, selected.weights, selected.shift)
    return Draft(model=model, contract=contract), None, report


def _scaled(draft: Draft) -> Draft:
    """Return the same encoder for images decoded smaller, where that keeps their embeddings."""
    spec = replace(draft.contract.preprocess, scaled_decode=SCALED_DECODE)
    return replace(draft, contract=replace(draft.contract, preprocess=spec))
