"""Read another library's ONNX model: with its own data files, and nothing outside its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import external_data_helper, inliner

from base.errors import ArtifactError
from base.text import first_line, one_line
from export.encoder_file.encoder_file import MAX_FILE_BYTES
from export.encoder_file.onnx_safety import check_graph_is_safe
from export.encoder_file.onnx_wire import WireError, is_external, messages

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto, TensorProto


def read_model(path: Path) -> ModelProto:
    """Read a complete model: data files beside it loaded, functions inlined.

    Raises:
        ArtifactError: missing, damaged, larger than 2 GiB, data outside its folder, or a graph
            that `onnx_safety` refuses.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ArtifactError(f"{path} is larger than 2 GiB: an encoder is one file below that")
    content = path.read_bytes()
    try:
        external = sum(
            kind == "Tensor" and is_external(message)
            for kind, message in messages("Model", memoryview(content))
        )
        model = onnx.load_model_from_string(content)
    except (WireError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise ArtifactError(f"{path} is not a whole ONNX file ({reason})") from error
    except Exception as error:  # protobuf's own class, which has no fixed home
        raise ArtifactError(f"{path} is not an ONNX file ({type(error).__name__})") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} holds no ONNX graph")
    if external:
        _load_external_data(path, model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    try:
        check_graph_is_safe(model.SerializeToString())
    except (ArtifactError, WireError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    return model


def _load_external_data(path: Path, model: ModelProto) -> None:
    """Load tensors that lie in other files of the model's folder."""
    folder = path.resolve().parent
    total = 0
    for tensor in _tensors(model):
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        file = (folder / location).resolve()  # follows links: what counts is where the bytes are
        if not location or not file.is_relative_to(folder) or not file.is_file():
            raise ArtifactError(
                f"{path} keeps {tensor.name[:60]!a} in {location[:80]!a}, which is not a file in "
                f"its folder: only files beside the model are read"
            )
        total += next((int(e.value) for e in tensor.external_data if e.key == "length"), 0)
    if total > MAX_FILE_BYTES:
        raise ArtifactError(f"{path} has {total} bytes of data: an encoder is one file below 2 GiB")
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except Exception as error:  # whatever onnx finds wrong with the files
        reason = one_line(error, 100)
        raise ArtifactError(f"{path}: its data files cannot be read ({reason})") from error


def _tensors(model: ModelProto) -> list[TensorProto]:
    """Return the tensors with data in another file, which onnx will load."""
    tensors = external_data_helper._get_all_tensors(model)  # noqa: SLF001 - no public way
    return [tensor for tensor in tensors if external_data_helper.uses_external_data(tensor)]
