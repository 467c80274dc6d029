"""The exported graph computes what torch computes, and holds nothing it should not."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from base.errors import ArtifactError, UsageError
from base.files import sha256_file
from export.convert.onnx_graph import OPSET, build_graph, export_run
from export.encoder_file.encoder_file import describe, open_encoder, read_contract
from export.verify.generated_images import generated_images
from export.verify.measures import relative_error
from training.models.encoders import RESNETS, ResNetEncoder
from training.models.features import encode
from training.run_folder.checkpoint import load_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def lived_in(encoder: nn.Module) -> nn.Module:
    """Gives batch norms statistics as after training, so that folding them wrongly would show."""
    generator = torch.Generator().manual_seed(3)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return encoder.eval()


def run_graph(
    model: onnx.ModelProto, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    features, embeddings = session.run(["features", "embeddings"], {"images": images})
    return features, embeddings


@pytest.mark.parametrize(
    ("name", "stem", "channels", "size", "mean", "std", "opset"),
    [
        ("resnet18", "small", 8, 32, ZERO, ONE, OPSET),
        ("resnet18", "small-stride2", 5, 40, (0.5, 0.4, 0.3), ONE, 18),
        ("resnet50", "imagenet", 4, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 23),
    ],
)
def test_graph_and_torch_agree(
    *,
    name: str,
    stem: Literal["imagenet", "small", "small-stride2"],
    channels: int,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    opset: int,
) -> None:
    torch.manual_seed(0)
    block, depths = RESNETS[name][0], (1, 2, 1, 1)  # every kind of layer, traced in a third
    encoder = lived_in(
        ResNetEncoder(block, depths, channels=channels, stem=stem, zero_init_residual=False)
    )
    model = build_graph(encoder, size, mean, std, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    images = generated_images(9, size)
    expected = encode(encoder, images, mean=mean, std=std)
    features, embeddings = run_graph(model, images)
    assert relative_error(features, expected).max() < 1e-5
    norm = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected / norm, atol=1e-6)

    kinds = Counter(node.op_type for node in model.graph.node)
    assert "BatchNormalization" not in kinds
    assert kinds["Conv"] == sum(isinstance(module, nn.Conv2d) for module in encoder.modules())
    assert kinds["Mul"] == 0  # the scaling went into the first convolution
    assert kinds["Sub"] == (mean != ZERO)
    assert kinds["Transpose"] == kinds["Cast"] == 1
    assert kinds["Shape"] == kinds["Gather"] == 0


def test_nothing_of_the_exporting_machine_is_in_the_file(exported_encoder: Path) -> None:
    content = exported_encoder.read_bytes()
    home = str(Path(__file__).parents[3]).encode()
    for trace in (home, b"site-packages", b"onnx_graph.py", b"stack_trace", b"pkg.torch"):
        assert trace not in content


def test_exporting_prints_nothing_and_leaves_the_encoder_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    build_graph(encoder, 8, ZERO, ONE)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    assert encoder.training
    assert isinstance(encoder[1], nn.AdaptiveAvgPool2d)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


class Silence(nn.Module):
    """Features that are all zero for dark images."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images.mean((2, 3)) - 0.5)


def test_zero_features_give_zero_embeddings() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] = 255
    features, embeddings = run_graph(build_graph(Silence(), 8, ZERO, ONE), images)
    bright = np.array([[0.0], [1.0]]) * np.ones(3)
    np.testing.assert_allclose(features, bright / 2, atol=1e-6)
    np.testing.assert_allclose(embeddings, bright / 3**0.5, atol=1e-6)


class LooksTwice(nn.Module):
    """Uses the scaled image in two places, so that no single convolution can take the scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.convolution(images).mean((2, 3)), images.amax((2, 3))], dim=1)


def test_scaling_stays_where_it_cannot_be_folded() -> None:
    torch.manual_seed(0)
    encoder, mean, std = LooksTwice(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    model = build_graph(encoder, 8, mean, std)
    assert "Mul" in {node.op_type for node in model.graph.node}
    images = generated_images(4, 8)
    expected = encode(encoder, images, mean=mean, std=std)
    assert relative_error(run_graph(model, images)[0], expected).max() < 1e-5


def test_scaling_is_folded_whatever_the_number_of_channels() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    mean, std = (0.5, 0.4, 0.3, 0.2, 0.1), (0.2, 0.3, 0.4, 0.5, 0.6)
    model = build_graph(encoder, 8, mean, std)
    assert "Mul" not in {node.op_type for node in model.graph.node}
    images = generated_images(4, 8, channels=5)
    expected = encode(encoder, images, mean=mean, std=std)
    assert relative_error(run_graph(model, images)[0], expected).max() < 1e-5


def test_scaling_is_not_folded_into_a_grouped_convolution() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    mean, std = (0.5, 0.4, 0.3, 0.2), (0.2, 0.3, 0.4, 0.5)
    model = build_graph(encoder, 8, mean, std)
    assert "Mul" in {node.op_type for node in model.graph.node}
    images = generated_images(4, 8, channels=4)
    expected = encode(encoder, images, mean=mean, std=std)
    assert relative_error(run_graph(model, images)[0], expected).max() < 1e-5


class Gate(nn.Module):
    """Squeeze and excitation, as EfficientNets have it; its means are GlobalAveragePools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        across = x.mean((1, 2), keepdim=True).flatten(1)  # this mean must stay one
        return torch.cat([x.mean((2, 3), keepdim=True).flatten(1), across], dim=1)


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    network = ConvNeXt(blocks, layer_scale=0.5)
    features, pool, (norm, *_) = network.children()
    return nn.Sequential(features, pool, norm, nn.Flatten(1))


def small_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    network: nn.Module = VisionTransformer(32, 8, 2, 2, 16, 32)
    network.heads = nn.Identity()
    return network


def small_timm_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    network: nn.Module = VisionTransformer(32, 8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    return network


@pytest.mark.parametrize(
    ("build", "pools"), [(Gate, 2), (small_convnext, 1), (small_vit, 0), (small_timm_vit, 0)]
)
def test_other_architectures_agree_with_torch_in_every_batch(
    build: Callable[[], nn.Module], pools: int
) -> None:
    if build is small_timm_vit:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    encoder, mean, std = build().eval(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    model = build_graph(encoder, 32, mean, std)
    onnx.checker.check_model(model, full_check=True)
    images = generated_images(5, 32)
    expected = encode(encoder, images, mean=mean, std=std)
    features, _ = run_graph(model, images)
    assert relative_error(features, expected).max() < 1e-5
    assert relative_error(run_graph(model, images[:1])[0], expected[:1]).max() < 1e-5
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["GlobalAveragePool"] == pools
    used = {name for node in model.graph.node for name in node.input}
    assert {value.name for value in model.graph.initializer} <= used
    assert "BatchNormalization" not in kinds


@pytest.mark.parametrize("opset", [0, 17, 24])
def test_an_opset_out_of_range_is_told(opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset {opset} is out of range: choose 18 to 23"):
        build_graph(Silence(), 8, ZERO, ONE, opset=opset)


# --- a whole run ---------------------------------------------------------------------------------


def test_the_file_names_its_run(tiny_run: Path, exported_encoder: Path) -> None:
    trained = load_encoder(tiny_run)
    contract = read_contract(exported_encoder)
    assert contract.source_sha256 == sha256_file(tiny_run / "checkpoint.pt")
    assert contract.preprocess == trained.preprocess
    assert (contract.mean, contract.std) == (trained.mean, trained.std)
    assert contract.recipe == trained.recipe
    assert contract.quality == trained.quality
    assert contract.quality["knn_accuracy"] > 0
    assert contract.feature_dim == contract.embedding_dim == trained.module.feature_dim == 64
    assert contract.created_with["torch"] == version("torch")
    assert contract.licence_note == "no licence was stated when this file was made"
    facts = describe(exported_encoder)
    assert (facts["opset"], facts["ir_version"], facts["producer"]) == (OPSET, 9, "lookalike")


def test_the_projection_head_is_not_in_the_file(tiny_run: Path, exported_encoder: Path) -> None:
    size = sum(p.numel() for p in load_encoder(tiny_run).module.parameters()) * 4
    assert exported_encoder.stat().st_size < size + 40_000


def test_an_exported_encoder_takes_batches_of_any_size(exported_encoder: Path) -> None:
    encoder = open_encoder(exported_encoder)
    images = generated_images(33, encoder.preprocess.size)
    whole = encoder.encode(images)
    assert whole.shape == (33, 64)
    for count in (0, 1, 2, 7):
        np.testing.assert_allclose(encoder.encode(images[:count]), whole[:count], atol=1e-6)


def test_what_cannot_be_exported_is_told(tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(ArtifactError, match="no run folder"):
        export_run(tmp_path, tmp_path / "encoder.onnx")
    with pytest.raises(UsageError, match=r"is a folder: give the name of a file"):
        export_run(tiny_run, tmp_path)
    assert list(tmp_path.iterdir()) == []
