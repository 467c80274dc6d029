"""Others' ONNX encoders in our contract: the numbers of plain ONNX Runtime on the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from base.errors import ArtifactError, UsageError
from base.files import sha256_file
from export.cli.cli import app
from export.convert.onnx_inspect import Layout, OnnxOptions
from export.convert.wrap_onnx import draft_onnx
from export.encoder_file.encoder_file import open_encoder
from export.verify.generated_images import generated_images

if TYPE_CHECKING:
    from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, MAPS, CLASSES = 16, 12, 5


def network(
    *,
    layout: Layout = "nchw",
    element: int = TensorProto.FLOAT,
    batch: Any = "batch",
    side: Any = SIZE,
    opset: int = 13,
    reshape: bool = True,
    names: tuple[str, str] = ("input", "features"),
) -> onnx.ModelProto:
    """Conv, ReLU, mean, [reshape,] and a classifier on the features; weights in fixed random draws.

    Its tensors have the names of ours on purpose where that could clash.
    """
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 0.3, (MAPS, 3, 3, 3)).astype(np.float32)
    head = rng.normal(0, 0.3, (MAPS, CLASSES)).astype(np.float32)
    half = element == TensorProto.FLOAT16
    weights = {
        "scale": kernel.astype(np.float16) if half else kernel,
        "head": head.astype(np.float16) if half else head,
        "shape": np.array([1 if batch == 1 else -1, MAPS], np.int64),
    }
    source, features = names
    nodes, at = [], source
    if element == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [at], ["cast"], to=TensorProto.FLOAT))
        at = "cast"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [at], ["planes"], perm=[0, 3, 1, 2]))
        at = "planes"
    nodes += [
        helper.make_node("Conv", [at, "scale"], ["map"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["pixels"]),
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "shape"], [features])
        if reshape
        else helper.make_node("Flatten", ["pooled"], [features]),
        helper.make_node("MatMul", [features, "head"], ["logits"]),
    ]
    shape = [batch, 3, side, side] if layout == "nchw" else [batch, side, side, 3]
    out = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(source, element, shape)],
        [helper.make_tensor_value_info("logits", out, [batch, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def originals(model: onnx.ModelProto, x: np.ndarray[Any, Any], output: str) -> np.ndarray[Any, Any]:
    """What plain ONNX Runtime makes of one image after the other."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    if output not in [value.name for value in model.graph.output]:
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    rows = [session.run([output], {name: one[None]})[0] for one in x]
    return np.concatenate(rows).reshape(len(x), -1)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("made", "output"),
    [
        ({}, "logits"),
        ({}, "features"),
        ({"names": ("images", "embeddings")}, "embeddings"),
        ({"layout": "nhwc", "opset": 9}, "features"),
        ({"batch": 1}, "features"),
        ({"batch": 1, "reshape": False}, "logits"),
        ({"element": TensorProto.FLOAT16}, "features"),
        ({"element": TensorProto.UINT8, "layout": "nhwc", "side": "side"}, "features"),
    ],
)
def test_the_contract_computes_what_the_original_computes(
    made: dict[str, Any], output: str, tmp_path: Path
) -> None:
    model = network(**made)
    path = saved(model, tmp_path / "theirs.onnx")
    byte = made.get("element") == TensorProto.UINT8
    norm: dict[str, Any] = {} if byte else {"mean": MEAN, "std": STD}
    size = SIZE if made.get("side") else None
    options = OnnxOptions(**norm, image_size=size, output=None if output == "logits" else output)
    draft, wrapped = draft_onnx(path, options=options, licence_note="theirs")
    assert wrapped.fixed_batch == (made.get("batch") == 1)
    out = draft.write(tmp_path / "encoder.onnx")
    onnx.checker.check_model(out, full_check=True)

    encoder = open_encoder(out, provider="cpu")
    assert encoder.contract.source_sha256 == sha256_file(path)
    assert encoder.contract.licence_note == "theirs"
    images = generated_images(8, SIZE)[2:]  # the first two are plain
    x: Any = images if byte else (images / 255 - MEAN) / STD
    x = x if made.get("layout") == "nhwc" else x.transpose(0, 3, 1, 2)
    kinds: dict[Any, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.UINT8: np.uint8}
    expected = originals(model, x.astype(kinds.get(made.get("element"), np.float32)), output)
    features, embeddings = encoder.encode_with_features(images)
    tolerance = 2e-3 if made.get("element") == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(features, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        embeddings, features / np.linalg.norm(features, axis=1, keepdims=True), atol=1e-6
    )
    before = {t.name: t.SerializeToString() for t in model.graph.initializer}
    for tensor in onnx.load(out).graph.initializer:  # weights are the very bytes
        if tensor.name.startswith("wrapped/"):
            tensor.name = tensor.name.removeprefix("wrapped/")
            assert tensor.SerializeToString() == before.pop(tensor.name)
    assert not before


def test_pixels_may_stay_bytes_in_size(tmp_path: Path) -> None:
    path = saved(network(), tmp_path / "theirs.onnx")
    options = OnnxOptions(mean=(127.0,) * 3, std=(128.0,) * 3, divide=1.0)
    draft, _ = draft_onnx(path, options=options)
    encoder = open_encoder(draft.write(tmp_path / "encoder.onnx"), provider="cpu")
    assert encoder.contract.mean == pytest.approx((127 / 255,) * 3)
    images = generated_images(3, SIZE)
    x = ((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    expected = originals(network(), x, "logits")
    np.testing.assert_allclose(encoder.encode_with_features(images)[0], expected, atol=1e-5)


def feature_maps(model: onnx.ModelProto) -> None:
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, None))


def test_feature_maps_are_averaged(tmp_path: Path) -> None:
    model = network()
    feature_maps(model)
    path = saved(model, tmp_path / "theirs.onnx")
    draft, wrapped = draft_onnx(path, options=OnnxOptions(mean=MEAN, std=STD))
    assert wrapped.output == "map"
    encoder = open_encoder(draft.write(tmp_path / "encoder.onnx"), provider="cpu")
    assert encoder.contract.feature_dim == MAPS


# --- what is refused -----------------------------------------------------------------------------


def a_second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def a_second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, MAPS])
    )


def a_rectangle(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 20


def no_colors(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"


def a_batch_of_four(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def a_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def message_for(model: onnx.ModelProto, path: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        draft_onnx(
            saved(model, path), options=OnnxOptions(**({"mean": MEAN, "std": STD} | options))
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_graph_does_not_show_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    assert "say --mean and --std" in message_for(network(), path, mean=None)
    assert "say --image-size" in message_for(network(side="side"), path)
    assert "takes pictures of 16 px, not 32" in message_for(network(), path, image_size=32)
    changes = [
        (a_second_input, "has 2 inputs (input, more)"),
        (a_second_output, "choose with --output"),
        (a_rectangle, "20 x 16"),
        (no_colors, "say --layout nchw or --layout nhwc"),
        (a_batch_of_four, "batch is fixed to 4"),
        (a_loop, "operator Loop"),
    ]
    for change, message in changes:
        model = network()
        change(model)
        assert message in message_for(model, path)
    message = message_for(network(), path, output="nothing")
    assert "no tensor 'nothing': its outputs are logits; 'features' goes into" in message
    assert "operator set 8" in message_for(network(opset=8), path)
    assert "leave them out" in message_for(
        network(element=TensorProto.UINT8, layout="nhwc"), path, image_size=SIZE
    )


def test_a_batch_that_cannot_be_made_free_is_refused(tmp_path: Path) -> None:
    model = network(batch=1)
    (shape,) = [t for t in model.graph.initializer if t.name == "shape"]
    shape.CopyFrom(numpy_helper.from_array(np.array([MAPS], np.int64), "shape"))  # no batch axis
    model.graph.node[-1].CopyFrom(helper.make_node("Identity", ["features"], ["flat"]))
    model.graph.node.append(helper.make_node("Expand", ["flat", "row"], ["logits"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, MAPS], np.int64), "row"))
    message = message_for(model, tmp_path / "theirs.onnx", output="logits")
    assert "batch is fixed to 1 and cannot be made free" in message


def test_data_is_read_beside_the_model_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save_model(
        network(), folder / "theirs.onnx", save_as_external_data=True, size_threshold=0,
        location="data.bin",
    )  # fmt: skip
    options = OnnxOptions(mean=MEAN, std=STD)
    draft, _ = draft_onnx(folder / "theirs.onnx", options=options)
    assert open_encoder(draft.write(tmp_path / "e.onnx"), provider="cpu").embedding_dim == CLASSES

    (folder / "data.bin").rename(tmp_path / "data.bin")
    (folder / "data.bin").symlink_to(tmp_path / "data.bin")
    with pytest.raises(ArtifactError, match="only files beside the model"):
        draft_onnx(folder / "theirs.onnx", options=options)
    model = onnx.load(folder / "theirs.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = "../data.bin"
    with pytest.raises(ArtifactError, match="only files beside the model"):
        draft_onnx(saved(model, folder / "theirs.onnx"), options=options)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    content = network().SerializeToString()
    path = tmp_path / "theirs.onnx"
    for length in (0, 10, 300, len(content) - 5):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as caught:
            draft_onnx(path, options=OnnxOptions(mean=MEAN, std=STD))
        assert str(path) in str(caught.value)


def test_the_command_wraps(tmp_path: Path) -> None:
    path = saved(network(), tmp_path / "theirs.onnx")
    out = tmp_path / "encoder.onnx"
    arguments = ["--onnx", path, "--out", out, "--mean", "0", "--std", "1", "--output", "features"]
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "found input float32 NCHW of 16 px, features 'features'" in result.stderr
    assert open_encoder(out).embedding_dim == MAPS


def test_options_that_nobody_would_look_at_are_refused(tmp_path: Path) -> None:
    for arguments in (["--onnx", "x.onnx", "--opset", "20"], ["x.pt", "--layout", "nchw"]):
        result = CliRunner().invoke(app, ["export", *arguments, "--out", str(tmp_path / "e.onnx")])
        assert isinstance(result.exception, UsageError)
        assert "leave it out" in str(result.exception)
