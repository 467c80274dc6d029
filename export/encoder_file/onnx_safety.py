"""What an untrusted graph may hold: checked in the bytes, before any runtime parses them.

- operators of ONNX itself, and of com.microsoft those that quantized and fused graphs are made of;
  none that loops (it might never end), draws random numbers, or is defined in the file;
- no tensor that claims more values than the file holds, and no sparse one: a few bytes that become
  gigabytes in memory;
- no padding wider than any encoder's;
- one plain graph of at most `MAX_NODES` nodes, with the inputs and outputs of an encoder.

This does not make a hostile graph harmless: it may still compute for long, or ask for much memory.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from base.errors import ArtifactError
from export.encoder_file.onnx_wire import fields, is_external, messages, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from export.encoder_file.contract import Signature

MAX_NODES = 50_000
MAX_PAD = 512  # pixels; dilated kernels pad by a few dozen
MAX_SHOWN = 60

REFUSED = frozenset({  # of ai.onnx
    "Loop", "Scan", "SequenceMap", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Bernoulli", "Multinomial",
})  # fmt: skip
CONTRIBUTED = frozenset({  # of com.microsoft
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
    "MatMulNBits", "DynamicQuantizeLinear", "NhwcMaxPool", "NhwcConv", "NhwcFusedConv",
    "QLinearAdd", "QLinearMul", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat",
    "QLinearConv", "QLinearLeakyRelu", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
    "QLinearWhere", "QGemm", "QAttention", "QOrderedMatMul", "ReduceSumInteger", "FusedConv",
    "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "FastGelu", "BiasGelu",
    "QuickGelu", "BiasAdd", "BiasSoftmax", "Attention", "MultiHeadAttention", "PackedAttention",
    "LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "GroupNorm",
    "Trilu",
})  # fmt: skip
_BITS = {  # TensorProto.DataType -> bits a value
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
_LISTS = {4: 4, 5: 1, 7: 1, 10: 8, 11: 1}  # field of a typed list -> least bytes a value


def check_graph_is_safe(content: bytes) -> None:
    """Refuse a graph with anything that no encoder needs.

    Args:
        content: an ONNX file's bytes, which `onnx_wire.read_header` has read.

    Raises:
        ArtifactError: it holds something of the list above; the message names it.
        WireError: it is not a whole ONNX file.
    """
    nodes = 0
    for kind, message in messages("Model", memoryview(content)):
        if kind == "Node":
            nodes += 1
            _check_node(message)
        elif kind == "Attribute":
            _check_attribute(message)
        elif kind == "Tensor":
            _check_tensor(message)
        elif kind in ("Function", "SparseTensor", "Training"):
            what = {"Function": "functions", "SparseTensor": "sparse tensors"}.get(kind, "training")
            raise ArtifactError(f"it holds {what} of its own, which no encoder needs")
    if nodes > MAX_NODES:
        raise ArtifactError(f"it has {nodes} nodes, more than the {MAX_NODES} of any encoder")


def _check_node(node: memoryview) -> None:
    """Check a NodeProto: op_type = 4, domain = 7."""
    texts = {number: text(value) for number, value in fields(node) if number in (4, 7)}
    operator, domain = texts.get(4, ""), texts.get(7, "")
    if domain in ("", "ai.onnx") and operator not in REFUSED:
        return
    if domain == "com.microsoft" and operator in CONTRIBUTED:
        return
    name = ascii(f"{domain}.{operator}" if domain else operator)[1:-1][:MAX_SHOWN]
    raise ArtifactError(f"it uses the operator {name}, which no encoder needs")


def _check_attribute(attribute: memoryview) -> None:
    """Check an AttributeProto: name = 1, ints = 8."""
    name, numbers = "", []
    for number, value in fields(attribute):
        if number == 1:
            name = text(value)
        elif number == 8:
            numbers += list(_integers(value))
    if name == "pads" and any(not -MAX_PAD <= pad <= MAX_PAD for pad in numbers):
        raise ArtifactError(f"it pads by {max(numbers, key=abs)} pixels, more than any encoder")


def _check_tensor(tensor: memoryview) -> None:
    """Check a TensorProto: dims = 1, data_type = 2, raw_data = 9, typed lists = 4, 5, 7, 10, 11."""
    if is_external(tensor):
        raise ArtifactError("it keeps tensors in other files")
    dims: list[int] = []
    kind, raw, listed = 0, None, 0
    for number, value in fields(tensor):
        if number == 1:
            dims += _integers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 9 and isinstance(value, memoryview):
            raw = len(value)
        elif number in _LISTS:
            listed += 1 if isinstance(value, int) else len(value) // _LISTS[number]
    if kind not in _BITS or any(size < 0 for size in dims):
        raise ArtifactError(f"it holds a tensor of type {kind} and shape {dims[:8]}")
    count = math.prod(dims)
    stored = listed if raw is None else raw * 8 // _BITS[kind]
    if count > stored:
        raise ArtifactError(f"it holds a tensor of {count} values with bytes for {stored}")


def _integers(value: int | memoryview) -> Iterator[int]:
    """Yield the numbers of a repeated int64 field, packed or not."""
    if isinstance(value, int):
        yield _signed(value)
        return
    # Packed varints: written as one field each, they are what `fields` reads.
    start = 0
    for end, byte in enumerate(value, 1):
        if byte < 0x80:
            yield _signed(next(iter(fields(memoryview(b"\x08" + bytes(value[start:end])))))[1])
            start = end


def _signed(value: int | memoryview) -> int:
    assert isinstance(value, int)
    result: int = struct.unpack("<q", struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF))[0]
    return result


# --- inputs and outputs --------------------------------------------------------------------------


def graph_signatures(content: bytes) -> tuple[list[Signature], list[Signature]]:
    """Return names, types and shapes of the outermost graph's inputs and outputs.

    Inputs that are initializers too (as in ONNX before IR version 4) count: a caller could replace
    the weights through them.

    Raises:
        WireError: not a whole ONNX file.
    """
    inputs: list[Signature] = []
    outputs: list[Signature] = []
    for number, graph in fields(memoryview(content)):
        if number == 7 and isinstance(graph, memoryview):
            for field, value in fields(graph):
                if field in (11, 12) and isinstance(value, memoryview):
                    (inputs if field == 11 else outputs).append(_signature(value))
    return inputs, outputs


def _signature(info: memoryview) -> Signature:
    """Read a ValueInfoProto: name = 1, type = 2 (tensor_type = 1: elem_type = 1, shape = 2)."""
    name, kind = "", "no tensor"
    shape: tuple[int | None, ...] = ()
    for number, value in fields(info):
        if number == 1:
            name = text(value)
        elif number == 2:
            for tensor in _submessages(value, 1):
                kind, shape = _tensor_type(tensor)
    return name, kind, shape


def _tensor_type(tensor: memoryview) -> tuple[str, tuple[int | None, ...]]:
    kinds = [value for number, value in fields(tensor) if number == 1 and isinstance(value, int)]
    dims: list[int | None] = []
    for shape in _submessages(tensor, 2):
        for dim in _submessages(shape, 1):
            sizes = [_signed(value) for number, value in fields(dim) if number == 1]
            dims.append(sizes[-1] if sizes else None)
    number = kinds[-1] if kinds else 0
    return _TYPES.get(number, f"type {number}"), tuple(dims)


def _submessages(message: int | memoryview, field: int) -> Iterator[memoryview]:
    if isinstance(message, memoryview):
        for number, value in fields(message):
            if number == field and isinstance(value, memoryview):
                yield value
