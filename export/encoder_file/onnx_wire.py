"""What an ONNX file says about itself, read without the onnx package: protobuf walked by hand.

A machine that only serves has onnxruntime but not onnx, and an untrusted file is checked before any
runtime parses it. The walk skips weights, so it costs microseconds per node.

Field numbers: onnx.proto (ONNX IR specification). Wire format: protobuf encoding guide.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1
_MAX_DEPTH = 16

# Where nodes and tensors can be: message -> {field number: message it holds}.
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 11: "Input", 12: "Output", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
    "Input": {},
    "Output": {},
}


class WireError(ValueError):
    """The bytes are not a whole protobuf message; the text says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """What a file says about itself beside its graph."""

    ir_version: int
    producer: str
    opsets: dict[str, int]
    metadata: list[tuple[str, str]]
    has_graph: bool
    nodes: int
    external_tensors: int


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise WireError("it ends in the middle of a number: truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise WireError("a number is longer than 64 bits: not protobuf")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message; a length-delimited value stays a view.

    Raises:
        WireError: the message is cut short or is not protobuf.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind in (LENGTH, FIXED32, FIXED64):
            if kind == LENGTH:
                size, at = _varint(data, at)
            else:
                size = 4 if kind == FIXED32 else 8
            if at + size > len(data):
                raise WireError(f"a field needs {size} bytes, {len(data) - at} are left: truncated")
            value, at = data[at : at + size], at + size
            if kind != LENGTH:
                value = struct.unpack("<I" if size == 4 else "<Q", value)[0]
        else:
            raise WireError(f"wire type {kind} does not exist: not protobuf")
        if number == 0:
            raise WireError("field number 0 does not exist: not protobuf")
        yield number, value


def text(value: int | memoryview) -> str:
    """Return a string field."""
    if isinstance(value, int):
        raise WireError("a number stands where text belongs: not an ONNX file")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError("text is not UTF-8: not an ONNX file") from error


def _pair(value: int | memoryview) -> tuple[str, str]:
    """Read a StringStringEntryProto: key = 1, value = 2."""
    if isinstance(value, int):
        raise WireError("a number stands where a message belongs: not an ONNX file")
    texts = {number: text(content) for number, content in fields(value) if number in (1, 2)}
    return texts.get(1, ""), texts.get(2, "")


def _opset(value: int | memoryview) -> tuple[str, int]:
    """Read an OperatorSetIdProto: domain = 1, version = 2."""
    if isinstance(value, int):
        raise WireError("a number stands where a message belongs: not an ONNX file")
    domain, version = "", 0
    for number, content in fields(value):
        if number == 1:
            domain = text(content)
        elif number == 2 and isinstance(content, int):
            version = content
    return domain, version


def messages(kind: str, data: memoryview, depth: int = 0) -> Iterator[tuple[str, memoryview]]:
    """Yield (kind, bytes) of a message and of every message below it that `_CHILDREN` names.

    Raises:
        WireError: cut short, not protobuf, or nested deeper than any encoder.
    """
    if depth > _MAX_DEPTH:
        raise WireError(f"graphs are nested more than {_MAX_DEPTH} deep: not an encoder")
    yield kind, data
    for number, value in fields(data):
        child = _CHILDREN[kind].get(number)
        if child is not None:
            if isinstance(value, int):
                raise WireError("a number stands where a message belongs: not an ONNX file")
            yield from messages(child, value, depth + 1)


def is_external(tensor: memoryview) -> bool:
    """Return whether a TensorProto keeps its values in another file (external_data)."""
    return any(
        number == 13 or (number == 14 and value == _EXTERNAL) for number, value in fields(tensor)
    )


def read_header(content: bytes) -> ModelHeader:
    """Read the header of a complete ONNX file.

    Args:
        content: the file's bytes.

    Raises:
        WireError: the bytes are not a whole ONNX model.
    """
    data = memoryview(content)
    ir_version, producer, has_graph = 0, "", False
    opsets: dict[str, int] = {}
    metadata: list[tuple[str, str]] = []
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 2:
            producer = text(value)
        elif number == 7:
            has_graph = True
        elif number == 8:
            domain, version = _opset(value)
            opsets[domain] = version
        elif number == 14:
            metadata.append(_pair(value))
    nodes = external = 0
    for kind, message in messages("Model", data):
        nodes += kind == "Node"
        external += kind == "Tensor" and is_external(message)
    return ModelHeader(
        ir_version=ir_version,
        producer=producer,
        opsets=opsets,
        metadata=metadata,
        has_graph=has_graph,
        nodes=nodes,
        external_tensors=external,
    )
