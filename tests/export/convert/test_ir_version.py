"""The version of ONNX's representation: as low as the graph allows, for older runtimes."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from export.convert.onnx_graph import build_graph
from export.convert.onnx_inspect import OnnxOptions
from export.convert.wrap_onnx import draft_onnx
from export.encoder_file.encoder_file import open_encoder
from export.verify.generated_images import generated_images
from tests.export.convert.test_wrap_onnx import MEAN, SIZE, STD, network, originals, saved
from training.models.encoders import RESNETS, ResNetEncoder

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("opset", "representation"), [(18, 8), (20, 9), (21, 10)])
def test_the_representation_is_the_oldest_that_knows_the_operators(
    opset: int, representation: int
) -> None:
    encoder = ResNetEncoder(
        RESNETS["resnet18"][0], (1, 1, 1, 1), channels=8, stem="small", zero_init_residual=False
    )
    model = build_graph(encoder, 16, ZERO, ONE, opset=opset)
    assert model.ir_version == representation


def test_an_old_representation_is_raised_to_what_the_wrapped_graph_needs(tmp_path: Path) -> None:
    """IR version 3 wants each weight among the inputs."""
    model = network(opset=9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    draft, _ = draft_onnx(
        saved(model, tmp_path / "m.onnx"), options=OnnxOptions(mean=MEAN, std=STD)
    )
    encoder = open_encoder(draft.write(tmp_path / "e.onnx"), provider="cpu")
    images = generated_images(3, SIZE)
    x = ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32).transpose(0, 3, 1, 2)
    features, _ = encoder.encode_with_features(images)
    np.testing.assert_allclose(features, originals(network(opset=9), x, "logits"), atol=1e-4)
