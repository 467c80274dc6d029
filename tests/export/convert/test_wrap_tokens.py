"""ONNX encoders whose output is tokens, and classifiers that are taken for encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from base.errors import UsageError
from export.cli.cli import app
from export.convert.onnx_inspect import OnnxOptions, Token
from export.convert.wrap_onnx import draft_onnx
from export.encoder_file.encoder_file import open_encoder
from export.verify.generated_images import generated_images
from tests.export.convert.test_wrap_onnx import originals, saved

if TYPE_CHECKING:
    from pathlib import Path

SIZE, WIDTH = 16, 24
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
FLAGS = ["--mean", "0", "--std", "1"]


def model_of(nodes: list[Any], output: str, shape: list[Any], **weights: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def tokens() -> onnx.ModelProto:
    """Patches of 4 px as 16 tokens: [N,16,WIDTH]."""
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["map"], strides=[4, 4]),
        helper.make_node("Reshape", ["map", "sizes"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
    ]
    kernel = np.random.default_rng(1).normal(0, 0.2, (WIDTH, 3, 4, 4)).astype(np.float32)
    return model_of(nodes, "tokens", ["N", 16, WIDTH], kernel=kernel, sizes=[0, WIDTH, -1])


def classifier(classes: int, scores: str | None) -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "head"], ["logits"]),
    ]
    if scores is not None:
        nodes.append(helper.make_node(scores, ["logits"], ["scores"]))
    return model_of(
        nodes,
        "logits" if scores is None else "scores",
        ["N", classes],
        kernel=rng.normal(0, 0.2, (WIDTH, 3, 4, 4)).astype(np.float32),
        head=rng.normal(0, 0.2, (WIDTH, classes)).astype(np.float32),
    )


@pytest.mark.parametrize("token", ["cls", "mean"])
def test_tokens_become_features(token: Token, tmp_path: Path) -> None:
    file = saved(tokens(), tmp_path / "theirs.onnx")
    out = str(tmp_path / "ours.onnx")
    command = ["export", "--onnx", str(file), *FLAGS, "--output", "tokens", "--out", out]
    result = CliRunner().invoke(app, [*command, "--token", token])
    assert result.exit_code == 0, result.output
    encoder = open_encoder(tmp_path / "ours.onnx")
    images = generated_images(7, SIZE)[2:]  # the first is black, with features of length 0
    x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    rows = originals(tokens(), x, "tokens").reshape(5, 16, WIDTH)
    expected = rows[:, 0] if token == "cls" else rows.mean(1)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    assert encoder.contract.recipe["onnx"]["token"] == token


def test_tokens_without_a_choice_are_refused_with_the_choice(tmp_path: Path) -> None:
    file = saved(tokens(), tmp_path / "theirs.onnx")
    with pytest.raises(UsageError, match=r"tokens \[1, T, D\]: say --token cls .* --token mean"):
        draft_onnx(file, options=OnnxOptions(**PLAIN))


def test_a_choice_of_token_is_refused_where_there_are_none(tmp_path: Path) -> None:
    file = saved(classifier(40, None), tmp_path / "theirs.onnx")
    with pytest.raises(UsageError, match=r"'hidden' is \[1, 24\] .* --token is for \[1, T, D\]"):
        draft_onnx(file, options=OnnxOptions(**PLAIN, output="hidden", token="mean"))


@pytest.mark.parametrize(
    ("classes", "scores", "reason"),
    [
        (40, "Softmax", "it comes from Softmax"),
        (2, None, "it has 2 numbers"),
        (1000, None, "as many as ImageNet has classes"),
    ],
)
def test_a_classifier_is_exported_with_a_warning_that_names_its_features(
    classes: int, scores: str | None, reason: str, tmp_path: Path
) -> None:
    file, out = saved(classifier(classes, scores), tmp_path / "theirs.onnx"), tmp_path / "o.onnx"
    command = ["export", "--onnx", str(file), *FLAGS, "--out"]
    result = CliRunner().invoke(app, [*command, str(out)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "looks like a classifier's scores" in said
    assert reason in said
    assert "--output hidden" in said
    again = CliRunner().invoke(app, [*command, str(tmp_path / "b.onnx"), "--output", "hidden"])
    assert again.exit_code == 0, again.output
    assert "warning" not in again.output
    assert open_encoder(tmp_path / "b.onnx").contract.feature_dim == WIDTH


def test_features_behind_a_matrix_product_are_no_classifier(tmp_path: Path) -> None:
    file = saved(classifier(64, None), tmp_path / "theirs.onnx")
    assert draft_onnx(file, options=OnnxOptions(**PLAIN))[1].warning is None
