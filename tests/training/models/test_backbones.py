import sys

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from training.errors import RecipeError
from training.models.backbones import CLASSES, build_backbone, torchvision_names
from training.models.encoders import build_encoder
from training.recipes.recipe_files import load_recipe


@pytest.mark.parametrize(
    ("name", "size", "dim"),
    [
        ("convnext_tiny", 64, 768),
        ("efficientnet_b0", 64, 1280),
        ("googlenet", 64, 1024),
        ("resnext50_32x4d", 32, 2048),
        ("mobilenet_v3_small", 32, 1024),
        ("squeezenet1_1", 64, 512),
        ("swin_t", 64, 768),
        ("vit_b_16", 48, 768),
        ("timm:vit_tiny_patch16_224", 64, 192),
        ("timm/resnet10t", 32, 512),
    ],
)
def test_any_backbone_gives_features(name: str, size: int, dim: int) -> None:
    with torch.device("meta"):
        encoder = build_backbone(name, image_size=size)
        assert encoder.feature_dim == dim
        assert encoder.train()(torch.zeros(3, 3, size, size)).shape == (3, dim)
    assert not any(isinstance(m, nn.Dropout | StochasticDepth) and m.p for m in encoder.modules())
    assert not any(p.shape[0] == CLASSES for p in encoder.parameters() if p.ndim)


def test_every_name_of_torchvision_has_one_classifier() -> None:
    small = [n for n in torchvision_names() if n.startswith(("mnasnet0", "regnet_x_4", "shuffle"))]
    assert len(small) == 7
    for name in small:
        assert build_backbone(name, image_size=32).feature_dim > 0


def test_the_forward_is_torchvisions_up_to_the_classifier() -> None:
    import torchvision

    theirs = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None).eval()
    ours = build_backbone("shufflenet_v2_x0_5", image_size=32).eval()
    left_out = {"fc.weight", "fc.bias"}
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k not in left_out})
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs.fc(ours(x)), theirs(x))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "timm:resnet10t"])
def test_images_may_have_any_number_of_channels(name: str) -> None:
    encoder = build_backbone(name, image_size=32, channels=5)
    assert encoder(torch.rand(2, 5, 32, 32)).shape == (2, encoder.feature_dim)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("convnext_tinny", 64, "'convnext_tinny'; did you mean 'convnext_tiny'"),
        ("quantum", 64, "'quantum'; known: alexnet, .* and 60 more"),
        ("timm:vit_smal", 64, "timm knows no such network; did you mean 'vit_small"),
        ("inception_v3", 32, "inception_v3 cannot read pictures of 32 px .*data.image_size"),
        ("vit_b_16", 50, "vit_b_16 cannot read pictures of 50 px"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, size: int, message: str) -> None:
    with torch.device("meta"), pytest.raises(RecipeError, match=message) as caught:
        build_backbone(name, image_size=size)
    assert "\n" not in str(caught.value)


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match="pip install timm"):
        build_backbone("timm:resnet10t", image_size=32)


def test_settings_for_resnets_are_refused_elsewhere() -> None:
    for setting in ({"width": 2.0}, {"stem": "small"}, {"selective_kernels": True}):
        with pytest.raises(RecipeError, match="are for ResNets"):
            build_encoder("convnext_tiny", **setting)


def test_naming_a_backbone_takes_back_what_a_recipe_says_of_its_resnet() -> None:
    recipe = load_recipe("small-cpu", ["encoder.name=timm:resnet10t"])
    assert (recipe.encoder.width, recipe.encoder.stem) == (1.0, "auto")
    assert load_recipe("small-cpu", ["encoder.name=resnet34"]).encoder.width == 0.25
    with pytest.raises(RecipeError, match="are for ResNets"):
        load_recipe("small-cpu", ["encoder.name=swin_t", "encoder.width=2"])
