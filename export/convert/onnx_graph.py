"""Run folder to encoder file: the trained encoder, without its projection head, as an ONNX graph.

    images uint8 [N,S,S,C] -> planes [N,C,S,S] -> float32 -> minus 255 mean -> encoder -> features h
    embeddings = h / max(|h|, tiny)

torch.onnx.export (torch.export + onnxscript) writes the graph and folds batch norms into the
convolutions before them; ONNX Runtime would do so at load time where it did not.
AdaptiveAvgPool2d(1) becomes an as_strided of eleven nodes when N is dynamic, so it is replaced by
the plain mean before the export. What else the exporter leaves to do is in `onnx_passes.py`.

The result is a `Draft`, a graph with its contract, to be written as it is or after a change.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import helper
from torch import Tensor, nn

from base.errors import UsageError
from export.convert.onnx_passes import SCALE, fold_input_scale, pool_globally, strip
from export.encoder_file.contract import EMBEDDINGS, FEATURES, INPUT, EncoderContract
from export.encoder_file.encoder_file import check_target, write_encoder_file
from training.run_folder.checkpoint import load_encoder

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import onnx

    from training.run_folder.checkpoint import TrainedEncoder

OPSET = 20  # ONNX 1.15, IR version 9: ONNX Runtime 1.17 and later
MIN_OPSET, MAX_OPSET = 18, 23
TINY_NORM = 1e-12
NO_LICENSE = "no licence was stated when this file was made"  # in files: do not respell


class _Mean(nn.Module):
    """Global average pooling, [N,C,H,W] -> [N,C,1,1], as one ReduceMean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class EncoderGraph(nn.Module):
    """The whole graph: pixel scaling, encoder, L2.

    Args:
        encoder: float [N,C,S,S] -> h [N,D]; copied, in float32, on the CPU, in eval mode.
        mean, std: per channel, in units of [0, 1].
    """

    offset: Tensor
    input_scale: Tensor

    def __init__(self, encoder: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        encoder = copy.deepcopy(encoder).to("cpu", torch.float32)
        _replace_pools(encoder)
        self.encoder = encoder.requires_grad_(requires_grad=False)
        offset = 255 * np.asarray(mean, np.float64)
        scale = 1 / (255 * np.asarray(std, np.float64))
        self.shifted = bool(offset.any())
        self.register_buffer("offset", _per_channel(offset))
        self.register_buffer(SCALE, _per_channel(scale))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (features [N,D], embeddings [N,D]) of images, uint8 [N,S,S,C]."""
        x = images.permute(0, 3, 1, 2).to(torch.float32)  # transposed while it is one byte a value
        if self.shifted:
            x = x - self.offset
        features = self.encoder(x * self.input_scale)
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return features, features / length.clamp_min(TINY_NORM)


def _per_channel(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(1, -1, 1, 1)


def _replace_pools(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
            setattr(module, name, _Mean())
        else:
            _replace_pools(child)


def build_graph(
    encoder: nn.Module,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Turn an encoder module into an ONNX model with the inputs and outputs of an encoder file.

    Args:
        encoder: float [N,C,S,S] -> h [N,D].
        size: S, pixels.
        mean: per channel, in units of [0, 1].
        std: likewise.
        opset: version of the ONNX operator set.

    Raises:
        UsageError: the opset is out of range.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UsageError(f"opset {opset} is out of range: choose {MIN_OPSET} to {MAX_OPSET}")
    program = torch.onnx.export(
        EncoderGraph(encoder, mean, std),
        (torch.zeros(2, size, size, len(mean), dtype=torch.uint8),),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[FEATURES, EMBEDDINGS],
        dynamic_shapes={INPUT: {0: torch.export.Dim("N")}},
    )
    if program is None:
        raise AssertionError("torch.onnx.export gave no program")
    model = program.model_proto
    fold_input_scale(model.graph)
    pool_globally(model.graph)
    strip(model)
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return model


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("lookalike", "torch", "torchvision", "onnx", "onnxscript"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was not installed
            continue
    return versions


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An encoder file that is not written yet: what `write_encoder_file` takes."""

    model: onnx.ModelProto
    contract: EncoderContract

    def write(self, out: str | os.PathLike[str]) -> Path:
        """Write the file atomically; create missing folders."""
        path = Path(out)
        check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_encoder_file(self.model, self.contract, path)
        return path


def draft_encoder(
    trained: TrainedEncoder, *, opset: int = OPSET, licence_note: str = NO_LICENSE
) -> Draft:
    """Turn an encoder in memory, wherever its weights came from, into a draft: fp32, full width.

    Args:
        trained: the encoder and what it needs to be used.
        opset: version of the ONNX operator set.
        licence_note: what the file says about the license of its weights.

    Raises:
        UsageError: the opset is out of range.
    """
    model = build_graph(
        trained.module, trained.preprocess.size, trained.mean, trained.std, opset=opset
    )
    features, embeddings = (
        value.type.tensor_type.shape.dim[1].dim_value for value in model.graph.output
    )
    contract = EncoderContract(
        preprocess=trained.preprocess,
        mean=trained.mean,
        std=trained.std,
        feature_dim=features,
        embedding_dim=embeddings,
        source_sha256=trained.sha256,
        recipe=trained.recipe,
        quality=trained.quality,
        training=trained.training,
        licence_note=licence_note,
        created_with=_versions(),
    )
    return Draft(model=model, contract=contract)


def export_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    licence_note: str = NO_LICENSE,
) -> Path:
    """Write the encoder of a run folder as an encoder file, in fp32 and at its full width.

    Args:
        run: run folder of `lookalike train`.
        out: the file to write, atomically.
        opset: version of the ONNX operator set.
        licence_note: what the file says about the license of its weights.

    Returns:
        the path written.

    Raises:
        ArtifactError: the run folder is missing, damaged or not ours.
        UsageError: the opset is out of range, or `out` is a folder, a pipe or a device.
    """
    check_target(out)  # before the work
    return export_trained(load_encoder(Path(run)), out, opset=opset, licence_note=licence_note)


def export_trained(
    trained: TrainedEncoder,
    out: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    licence_note: str = NO_LICENSE,
) -> Path:
    """Write an encoder that is in memory, wherever its weights came from; see `export_run`."""
    check_target(out)
    return draft_encoder(trained, opset=opset, licence_note=licence_note).write(out)
