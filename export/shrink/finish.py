"""The last steps of an export: scaled decode; fitted on images, projection, then precision."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from base.errors import UsageError
from export.convert.onnx_graph import Draft
from export.encoder_file.encoder_file import FEATURES, INPUT, read_contract
from export.encoder_file.session import make_session
from export.shrink.fp16 import halve_draft
from export.shrink.pca import ReductionReport, reduce_draft
from export.shrink.quantize import Gate, QuantizationReport, quantize_draft
from images.pixels.preprocess import SCALED_DECODE
from training.data.cache import decode_source

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from base.progress import Progress
    from export.shrink.quantize_graph import Target
    from images.sources.sources import Source
    from training.data.dataset import RefusedImage

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CALIBRATION_IMAGES = 384  # a third calibrates, two thirds are held out
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What shall be done to a full-width fp32 encoder before it is written.

    Raises:
        UsageError: options that need one another, or do not go together.
    """

    precision: Precision = "fp32"
    calibrate: Source | None = None
    target: Target = "auto"
    gate: Gate = field(default_factory=Gate)
    allow_loss: bool = False
    pictures: int = CALIBRATION_IMAGES
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
    """An encoder to write, and what was measured on the way."""

    draft: Draft
    reduction: ReductionReport | None
    quantization: QuantizationReport | None
    refused: tuple[RefusedImage, ...]


def read_draft(path: str | os.PathLike[str]) -> Draft:
    """Return an encoder file, opened to be changed.

    Raises:
        ArtifactError: the file is missing, damaged or not an encoder.
    """
    contract = read_contract(path)
    return Draft(model=onnx.load(path), contract=contract)


def finish(draft: Draft, todo: Finish, progress: Progress | None = None) -> Finished:
    """Projects and converts a full-width fp32 encoder as asked.

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
            pictures = decode_source(
                todo.fit, draft.contract.preprocess, folder=Path(folder), progress=progress
            )
            refused.extend(pictures.refused)
            features = features_of(draft.model, pictures.images, progress)
            draft, reduction = reduce_draft(
                draft,
                features,
                pictures.labels,
                todo.embedding_dim,
                whiten=todo.whiten,
                source=Path(todo.fit.name).name,  # a file tells nobody about folders
            )
    if todo.calibrate is not None:
        pictures = decode_source(
            todo.calibrate, draft.contract.preprocess, limit=todo.pictures, progress=progress
        )
        refused.extend(pictures.refused)
        draft, quantization = quantize_draft(
            draft,
            pictures.images,
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
    """Return the same encoder, for images that are decoded smaller where that keeps embeddings."""
    spec = replace(draft.contract.preprocess, scaled_decode=SCALED_DECODE)
    return replace(draft, contract=replace(draft.contract, preprocess=spec))


def features_of(
    model: onnx.ModelProto, images: NDArray[np.uint8], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Features [N,D] by a graph in memory, on the CPU; `images` may be memory-mapped."""
    session, _ = make_session(model.SerializeToString(), "cpu")
    parts = []
    if progress:
        progress.begin("encoding", len(images))
    try:
        for start in range(0, len(images), BATCH):
            batch = np.ascontiguousarray(images[start : start + BATCH])
            parts.append(session.run([FEATURES], {INPUT: batch})[0])
            if progress:
                progress.update(min(start + BATCH, len(images)))
    finally:
        if progress:
            progress.end()
    return np.concatenate(parts)
