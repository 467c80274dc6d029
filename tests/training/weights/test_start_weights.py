from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torchvision import models

from base.errors import ArtifactError, UsageError
from base.files import sha256_file
from training.models.encoders import build_encoder
from training.recipes.recipe_files import load_recipe
from training.run_folder.checkpoint import load_checkpoint
from training.train import train
from training.weights.start_weights import load_start_weights, pinned, read_start_weights
from training.weights.weight_fit import fit
from training.weights.weight_layouts import IMAGENET

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

WIDE = ("encoder.width=1", "encoder.stem=imagenet", "data.image_size=64", "data.stored_size=64")


def saved(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def starting_from(path: Path | str, *settings: str) -> Recipe:
    return load_recipe("small-cpu", [f'encoder.weights="{path}"', *settings])


def test_a_state_dict_of_torchvision_is_taken_up_to_its_classifier(tmp_path: Path) -> None:
    theirs = models.resnet18(weights=None)
    file = saved(tmp_path / "theirs.pth", theirs.state_dict())
    recipe = starting_from(file, *WIDE)
    weights = read_start_weights(recipe)
    assert weights.sha256 == sha256_file(file)
    assert any("fc" in name for name in weights.left_out)
    assert "left out: fc" in weights.summary("theirs.pth")
    encoder = build_encoder("resnet18", stem="imagenet")
    load_start_weights(encoder, recipe)
    theirs.fc = nn.Identity()
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(encoder.eval()(x), theirs.eval()(x))


def test_a_backbone_takes_its_own_names(tmp_path: Path) -> None:
    theirs = models.get_model("shufflenet_v2_x0_5", weights=None).state_dict()
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in theirs.items()}}
    file = saved(tmp_path / "wrapped.pt", wrapped)
    weights = read_start_weights(starting_from(file, "encoder.name=shufflenet_v2_x0_5"))
    assert weights.left_out == ("fc (2 tensors)",)
    assert weights.norm == IMAGENET
    assert torch.equal(weights.state["conv1.0.weight"], theirs["conv1.0.weight"])


@pytest.mark.parametrize("settings", [("encoder.name=shufflenet_v2_x0_5",), WIDE])
def test_weights_of_a_diverged_training_start_no_run(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    name = "shufflenet_v2_x0_5" if len(settings) == 1 else "resnet18"
    state = models.get_model(name, weights=None).state_dict()
    last = next(key for key in reversed(state) if key.endswith("bn2.bias") or "conv5.1.b" in key)
    state[last][0] = torch.nan
    recipe = starting_from(saved(tmp_path / "diverged.pt", state), *settings)
    with pytest.raises(ArtifactError, match=f"{last} holds NaN or infinity"):
        read_start_weights(recipe)


def test_a_file_of_a_resnet_is_read_and_fitted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "theirs.pth", models.resnet18(weights=None).state_dict())
    fitted: list[str] = []

    def counted(*arguments: Any) -> dict[str, torch.Tensor]:
        fitted.append(arguments[3])
        return fit(*arguments)

    monkeypatch.setattr("training.weights.start_weights.fit", counted)
    monkeypatch.setattr("training.weights.foreign_weights.fit", counted)
    read_start_weights(starting_from(file, *WIDE))
    assert fitted == ["resnet18 of width 1"]


def test_a_run_starts_from_another_and_says_so(
    make_recipe: Callable[..., Recipe], make_source: Callable[..., Any], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    train(make_source(), make_recipe("data.mean=[0.5, 0.5, 0.5]"), first, device="cpu")
    settings = (f'encoder.weights="{first}"', "training.samples=8", "training.seed=3")
    second = make_recipe(*settings, "schedule.learning_rate=1e-9")
    train(make_source(), second, tmp_path / "second", device="cpu")
    checkpoint = load_checkpoint(tmp_path / "second")
    assert checkpoint.recipe["encoder"]["weights"] == str(first)
    assert checkpoint.recipe["encoder"]["weights_sha256"] == sha256_file(first / "checkpoint.pt")
    assert checkpoint.recipe["data"]["mean"] == [0.5, 0.5, 0.5]  # as the weights were trained
    # one step at next to no rate leaves the weights where they started
    trained = load_checkpoint(first).encoder
    name = "layer4.1.conv2.weight"
    torch.testing.assert_close(checkpoint.encoder[name], trained[name])
    # going on does not read them again
    (first / "checkpoint.pt").unlink()
    recipe = load_recipe(tmp_path / "second" / "recipe.toml")
    train(make_source(), recipe, tmp_path / "second", device="cpu", resume=True)


def test_mean_and_std_follow_the_weights_unless_there_are_some(tmp_path: Path) -> None:
    file = saved(tmp_path / "theirs.pth", models.resnet18(weights=None).state_dict())
    recipe = starting_from(file, *WIDE)
    weights = read_start_weights(recipe)
    assert pinned(recipe, weights).data.mean == (0.485, 0.456, 0.406)
    assert pinned(recipe, weights).encoder.weights_sha256 == weights.sha256
    assert pinned(recipe, weights, keep_norm=True).data == recipe.data
    own = starting_from(file, *WIDE, "data.mean=[0.5, 0.5, 0.5]")
    assert pinned(own, weights).data.mean == (0.5, 0.5, 0.5)


def test_weights_of_torchvision_come_from_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    recipe = starting_from("torchvision", *WIDE)
    url = models.ResNet18_Weights.DEFAULT.url
    with pytest.raises(UsageError, match=f"nothing is downloaded here; fetch {url} to {tmp_path}"):
        read_start_weights(recipe)
    file = tmp_path / "checkpoints" / Path(url).name
    file.parent.mkdir()
    saved(file, models.resnet18(weights=None).state_dict())
    with pytest.raises(ArtifactError, match="is damaged: its SHA-256 does not begin with"):
        read_start_weights(recipe)
    # a file whose name promises what it holds stands for the one that would be downloaded
    honest = file.with_name(f"resnet18-{sha256_file(file)[:8]}.pth")
    file.rename(honest)
    weights = models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr(type(weights), "url", f"https://example.org/{honest.name}", raising=False)
    for named in ("torchvision", "torchvision:IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        start = read_start_weights(starting_from(named, *WIDE))
        assert start.norm == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (("encoder.stem=small", "encoder.width=1"), ArtifactError, "--set encoder.stem=imagenet"),
        (("encoder.width=0.5",), ArtifactError, "encoder.width=1"),
        (("encoder.name=resnet34", "encoder.width=1"), ArtifactError, "resnet18"),
        (("encoder.name=shufflenet_v2_x0_5",), ArtifactError, "does not hold .* the right encoder"),
        (
            (*WIDE, f'encoder.weights_sha256="{"0" * 64}"'),
            ArtifactError,
            "is not the file of the recipe",
        ),
        (("encoder.weights=missing.pth",), UsageError, "no such file or run"),
        (
            ("encoder.weights=torchvision:IMAGENET1K_V3",),
            UsageError,
            "no weights of that name for resnet18; did you mean 'IMAGENET1K_V1'",
        ),
        (
            ("encoder.name=timm:resnet10t", "encoder.weights=torchvision"),
            UsageError,
            "no such file or run",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    settings: tuple[str, ...], error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = saved(tmp_path / "theirs.pth", models.resnet18(weights=None).state_dict())
    with pytest.raises(error, match=message) as caught:
        read_start_weights(starting_from(file, *settings))
    assert "\n" not in str(caught.value)
