"""A model as it came, in plain ONNX Runtime: what a wrapped one is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from base.errors import ArtifactError, UsageError
from base.text import first_line, one_line
from export.encoder_file.session import session_options

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray
    from onnx import ModelProto

    from export.convert.onnx_inspect import Layout, Token
    from training.weights.weight_layouts import Rgb


class Original:
    """The model as it came, run one image at a time."""

    def __init__(
        self,
        file: Path,
        model: ModelProto,
        output: str,
        layout: Layout,
        *,
        mean: Rgb,
        std: Rgb,
        token: Token | None = None,
    ) -> None:
        self._file, self._output, self._layout = file, output, layout
        self._token = token
        self._mean, self._std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        with_output = onnx.ModelProto()
        with_output.CopyFrom(model)
        if output not in {value.name for value in model.graph.output}:
            with_output.graph.output.append(onnx.ValueInfoProto(name=output))
        self._session = plain_session(file, with_output)
        (self._input,) = self._session.get_inputs()

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute its output, flattened: uint8 [N,S,S,3] to float32 [N,D]."""
        x: NDArray[Any] = images
        if self._input.type != "tensor(uint8)":
            x = (images.astype(np.float32) / 255 - self._mean) / self._std
        if self._layout == "nchw":
            x = x.transpose(0, 3, 1, 2)
        if self._input.type == "tensor(float16)":
            x = x.astype(np.float16)
        rows = []
        for image in x:
            try:
                (output,) = self._session.run([self._output], {self._input.name: image[None]})
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                reason = one_line(error)
                raise ArtifactError(f"{self._file} fails on a picture: {reason}") from error
            rows.append(_flat(self._file, self._output, np.asarray(output), self._token))
        return np.concatenate(rows)


def _flat(file: Path, name: str, output: NDArray[Any], which: Token | None) -> NDArray[np.float32]:
    """Return [1,D] for [1,D], of [1,C,H,W] the mean, of [1,T,D] the first or the mean."""
    if which is not None:
        if output.ndim != 3 or output.shape[0] != 1:
            raise UsageError(
                f"{file}: '{name}' is {list(output.shape)} for one picture, and --token is for "
                f"[1, T, D]: leave it out, or choose another tensor with --output"
            )
        rows = output[:, 0] if which == "cls" else output.astype(np.float32).mean(1)
        return np.asarray(rows, np.float32)
    if output.ndim == 3 and output.shape[0] == 1:
        raise UsageError(
            f"{file}: '{name}' is {list(output.shape)} for one picture, tokens [1, T, D]: say "
            f"--token cls for the first of them or --token mean for their mean"
        )
    if output.ndim == 4 and output.shape[0] == 1:
        return np.asarray(output.mean((2, 3)), np.float32)
    if output.ndim != 2 or output.shape[0] != 1:
        raise UsageError(
            f"{file}: '{name}' is {list(output.shape)} for one picture; features are [1, D] or "
            f"[1, C, H, W]: choose another tensor with --output"
        )
    return np.asarray(output, np.float32)


def plain_session(file: Path, model: ModelProto) -> onnxruntime.InferenceSession:
    """Open a session on the CPU; raise ArtifactError where the model does not load."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(0), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = first_line(error)
        raise ArtifactError(f"{file} does not load in ONNX Runtime: {reason}") from error
