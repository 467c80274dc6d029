"""Graphs that are not what their contract, or the format, says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from base.errors import ArtifactError
from export.encoder_file.encoder_file import open_encoder, write_encoder_file
from tests.conftest import TINY_FEATURES, tiny_graph
from tests.export.encoder_file.test_encoder_file import CONTRACT, described, refused

if TYPE_CHECKING:
    from collections.abc import Callable


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name


def another_input_name(model: onnx.ModelProto) -> None:
    rename(model, "images", "x")


def another_output_name(model: onnx.ModelProto) -> None:
    rename(model, "embeddings", "y")


def swapped_outputs(model: onnx.ModelProto) -> None:
    first, second = model.graph.output
    swapped = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in (second, first)]
    del model.graph.output[:]
    model.graph.output.extend(swapped)


def a_third_output(model: onnx.ModelProto) -> None:
    shape: list[str | int | None] = ["N", 12, 16, 16]
    model.graph.output.append(helper.make_tensor_value_info("map1", TensorProto.FLOAT, shape))


def a_second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def planes_first(model: onnx.ModelProto) -> None:
    del model.graph.node[1]
    model.graph.node[1].input[0] = "float"
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, 32, 32])
    )


def fixed_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def fixed_input_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_input_name, "x uint8 [N, 32, 32, 3]"),
        (another_output_name, "y float32 [N, 24]"),
        (swapped_outputs, "are embeddings float32 [N, 24], features float32 [N, 24]"),
        (a_third_output, "map1 float32 [N, 12, 16, 16]"),
        (a_second_input, "more float32 [N]"),
        (float_input, "images float32 [N, 32, 32, 3]"),
        (planes_first, "images uint8 [N, 3, 32, 32]"),
        (fixed_batch, "images uint8 [1, 32, 32, 3]"),
        (fixed_input_batch, "images uint8 [1, 32, 32, 3]"),
    ],
)
def test_a_graph_that_breaks_its_promise_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = described(tiny_graph())
    change(model)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    assert message in refused(path, open_encoder)
    with pytest.raises(ArtifactError) as caught:
        write_encoder_file(model, CONTRACT, tmp_path / "other.onnx")
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["feature_dim", "embedding_dim"])
def test_a_contract_of_another_graph_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "encoder.onnx"
    changed: dict[str, Any] = {field: TINY_FEATURES + 1}
    other = replace(CONTRACT, **changed)
    path.write_bytes(described(tiny_graph(), other).SerializeToString())
    assert "[N, 25]" in refused(path, open_encoder)


def test_a_graph_onnx_runtime_cannot_load_is_refused(tmp_path: Path) -> None:
    model = described(tiny_graph())
    model.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    assert "does not load in ONNX Runtime" in refused(path, open_encoder)
