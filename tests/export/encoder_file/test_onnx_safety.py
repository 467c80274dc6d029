"""Untrusted graphs: what is refused before a runtime sees it, and that nothing else happens."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from base.errors import ArtifactError
from export.encoder_file.encoder_file import METADATA_KEY, open_encoder
from export.encoder_file.onnx_safety import MAX_NODES, check_graph_is_safe, graph_signatures
from tests.conftest import tiny_contract, tiny_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[5].domain = "com.example"


def unknown_contribution(model: onnx.ModelProto) -> None:
    model.graph.node[5].domain = "com.microsoft"


def a_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def a_loop_in_a_branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    branch = helper.make_graph([helper.make_node("Loop", ["", ""], [], body=body)], "b", [], [])
    model.graph.node.append(
        helper.make_node("If", ["flag"], [], then_branch=branch, else_branch=branch)
    )


def noise(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], shape=[1]))


def a_function(model: onnx.ModelProto) -> None:
    made = helper.make_function("local", "F", [], [], [], [helper.make_opsetid("", 20)])
    model.functions.append(made)


def a_sparse_tensor(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    where = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, where, [10**6, 10**6])
    model.graph.sparse_initializer.append(sparse)


def a_tensor_that_claims_more(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def a_negative_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -1


def a_text(model: onnx.ModelProto) -> None:
    text = onnx.TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])
    model.graph.initializer.append(text)


def a_wide_border(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    pads = next(attribute for attribute in conv.attribute if attribute.name == "pads")
    pads.ints[2] = 2**30


def too_many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Relu", ["map1"], ["x"])] * MAX_NODES)


def other_files(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].data_location = TensorProto.EXTERNAL
    model.graph.initializer[2].external_data.add(key="location", value="../../etc/passwd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign_operator, "operator com.example.Relu"),
        (unknown_contribution, "operator com.microsoft.Relu"),
        (a_loop, "operator Loop"),
        (a_loop_in_a_branch, "operator Loop"),
        (noise, "operator RandomNormal"),
        (a_function, "functions of its own"),
        (a_sparse_tensor, "sparse tensors"),
        (a_tensor_that_claims_more, "values with bytes for 3"),
        (a_negative_shape, "shape [-1, 3, 1, 1]"),
        (a_text, "tensor of type 8"),
        (a_wide_border, "pads by 1073741824 pixels"),
        (too_many_nodes, "nodes, more than"),
        (other_files, "tensors in other files"),
    ],
)
def test_what_no_encoder_needs_is_refused_unloaded(
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_graph()
    model.metadata_props.add(key=METADATA_KEY, value=tiny_contract().to_json())
    change(model)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())

    def load(*_: object) -> None:
        raise AssertionError("a runtime was given the file")

    monkeypatch.setattr("export.encoder_file.encoder_file.make_session", load)
    with pytest.raises(ArtifactError) as caught:
        open_encoder(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_typed_lists_count_as_values() -> None:
    model = tiny_graph()
    for kind, values in ((TensorProto.FLOAT, [1.0, 2.0]), (TensorProto.INT64, [1, -2])):
        model.graph.initializer.append(helper.make_tensor(f"v{kind}", kind, [2], values))
    model.graph.initializer.append(helper.make_tensor("h", TensorProto.INT8, [2], [3, -4]))
    check_graph_is_safe(model.SerializeToString())


def test_signatures_are_the_graphs() -> None:
    inputs, outputs = graph_signatures(tiny_graph().SerializeToString())
    assert inputs == [("images", "uint8", (None, 32, 32, 3))]
    assert outputs == [("features", "float32", (None, 24)), ("embeddings", "float32", (None, 24))]
    model = tiny_graph()
    model.graph.input[0].type.Clear()
    assert graph_signatures(model.SerializeToString())[0] == [("images", "no tensor", ())]


FUZZ = """
import random, sys, warnings
from pathlib import Path
import numpy as np
from export.encoder_file.encoder_file import open_encoder
from base.errors import LookalikeError

content, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
picture = np.zeros((1, 32, 32, 3), np.uint8)
opened = refused = 0
for seed in range(400):
    draw = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        # half of the flips where the structure is: before and after the weights
        end = len(content) if seed % 2 else 900
        damaged[draw.randrange(end)] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    print(seed, end=" ", flush=True)
    try:
        encoder = open_encoder(path, provider="cpu", threads=1)
        embeddings = encoder.encode(picture)
    except LookalikeError as error:
        assert "\\n" not in str(error), str(error)
        refused += 1
    else:
        assert embeddings.shape == (1, encoder.embedding_dim)
        opened += 1
print("done", opened, refused)
"""


def test_damaged_bytes_never_do_more_than_be_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    """In a process of its own: a crash of the runtime would end it, a hang is cut off."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FUZZ), tiny_encoder, tmp_path / "damaged.onnx"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout[-200:]} {done.stderr[-2000:]}"
    *_, word, opened, refused = done.stdout.split()
    assert word == "done"
    assert int(opened) > 20  # flips in weights do no harm
    assert int(refused) > 100
