"""The hand-written protobuf walk, against the onnx package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from onnx import TensorProto, helper

from export.encoder_file.onnx_wire import WireError, fields, read_header
from tests.conftest import tiny_graph

if TYPE_CHECKING:
    import onnx


def model_with(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """A model that holds a tensor in a constant inside the branch of an If."""
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["out"], value=tensor)], "branch", [], [out]
    )
    node = helper.make_node("If", ["flag"], ["out"], then_branch=branch, else_branch=branch)
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    return helper.make_model(helper.make_graph([node], "g", [flag], [out]))


def test_the_header_is_what_onnx_wrote() -> None:
    model = tiny_graph()
    model.producer_name = "somebody"
    model.metadata_props.add(key="a", value="ä")
    model.metadata_props.add(key="a", value="2")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    header = read_header(model.SerializeToString())
    assert header.ir_version == model.ir_version
    assert header.producer == "somebody"
    assert header.opsets == {"": 20, "com.microsoft": 1}
    assert header.metadata == [("a", "ä"), ("a", "2")]
    assert header.has_graph
    assert header.nodes == len(model.graph.node)
    assert header.external_tensors == 0


def test_nodes_and_tensors_are_found_in_branches() -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    assert read_header(model_with(tensor).SerializeToString()).nodes == 3
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert read_header(model_with(tensor).SerializeToString()).external_tensors == 2


def test_an_external_weight_is_found() -> None:
    model = tiny_graph()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert read_header(model.SerializeToString()).external_tensors == 1


def test_a_cut_file_is_told_as_truncated() -> None:
    content = tiny_graph().SerializeToString()
    for length in range(1, len(content)):
        try:
            header = read_header(content[:length])
        except WireError:
            continue
        # Cut exactly between two fields: what is left is whole, but not all of it is there.
        assert not header.has_graph or not header.opsets


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x08", "truncated"),
        (b"\x08" + b"\xff" * 11, "longer than 64 bits"),
        (b"\x3a\x05ab", "5 bytes, 2 are left"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x01", "field number 0"),
        (b"\x12\x01\xff", "not UTF-8"),
        (b"\x10\x01", "a number stands where text belongs"),
        (b"\x70\x01", "a number stands where a message belongs"),
    ],
)
def test_broken_bytes_are_named(content: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        read_header(content)


def test_fixed_width_numbers_are_read() -> None:
    content = b"\x0d\x01\x00\x00\x00" + b"\x11\x02\x00\x00\x00\x00\x00\x00\x00"
    assert list(fields(memoryview(content))) == [(1, 1), (2, 2)]


def test_deep_nesting_is_refused() -> None:
    graph = b""
    for _ in range(40):
        attribute = b"\x32" + bytes([0x80 | len(graph) & 0x7F, len(graph) >> 7]) + graph
        node = b"\x2a" + bytes([0x80 | len(attribute) & 0x7F, len(attribute) >> 7]) + attribute
        graph = b"\x0a" + bytes([0x80 | len(node) & 0x7F, len(node) >> 7]) + node
    model = b"\x3a" + bytes([0x80 | len(graph) & 0x7F, len(graph) >> 7]) + graph
    with pytest.raises(WireError, match="nested"):
        read_header(model)
