import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.models.encoders import RESNETS, Stem, build_encoder


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("resnet18", 1, 11.18),
        ("resnet50", 1, 23.51),
        ("resnet50", 2, 93.91),
        ("resnet50", 4, 375.38),
    ],
)
def test_parameter_counts_are_the_papers(name: str, width: float, millions: float) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, width=width, stem="imagenet")
    assert count(encoder) / 1e6 == pytest.approx(millions, abs=0.02)


@pytest.mark.parametrize("name", sorted(RESNETS))
def test_the_layout_is_torchvisions_without_its_classifier(name: str) -> None:
    import torchvision

    with torch.device("meta"):
        ours = build_encoder(name, stem="imagenet").state_dict()
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    shapes = {k: tuple(v.shape) for k, v in theirs.items() if not k.startswith("fc.")}
    assert {k: tuple(v.shape) for k, v in ours.items()} == shapes


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_forward_is_torchvisions(name: str) -> None:
    import torchvision

    ours = build_encoder(name, stem="imagenet", zero_init_residual=False).eval()
    theirs = torchvision.models.get_model(name, weights=None).eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("stem", "image_size", "stride"),
    [
        ("imagenet", 64, 32),
        ("small", 64, 8),
        ("small-stride2", 64, 16),
        ("auto", 64, 8),
        ("auto", 96, 32),
    ],
)
def test_stems(stem: Stem, image_size: int, stride: int) -> None:
    encoder = build_encoder("resnet18", width=0.125, stem=stem, image_size=image_size).eval()
    sides = []
    encoder.get_submodule("layer4").register_forward_hook(
        lambda _m, _i, out: sides.append(tuple(out.shape[2:]))
    )
    h = encoder(torch.rand(2, 3, image_size, image_size))
    assert h.shape == (2, encoder.feature_dim) == (2, 64)
    assert sides == [(image_size // stride,) * 2]


@pytest.mark.parametrize(
    ("name", "width", "dim"), [("resnet18", 0.25, 128), ("resnet50", 0.5, 1024)]
)
def test_the_width_scales_every_channel(name: str, width: float, dim: int) -> None:
    narrow = build_encoder(name, width=width, stem="small")
    with torch.device("meta"):
        full = build_encoder(name, stem="small")
    assert narrow.feature_dim == dim
    for (key, a), b in zip(narrow.state_dict().items(), full.state_dict().values(), strict=True):
        if a.ndim:
            assert a.shape[0] == b.shape[0] * width, key


def test_blocks_start_as_the_identity_where_asked() -> None:
    for zero in (True, False):
        encoder = build_encoder("resnet18", width=0.125, stem="small", zero_init_residual=zero)
        last = [m for n, m in encoder.named_modules() if n.endswith("bn2")]
        assert len(last) == 8
        scales = torch.cat([m.weight for m in last if isinstance(m, nn.BatchNorm2d)])
        assert bool((scales == (0 if zero else 1)).all())
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.1, 1e-5)}


def test_images_may_have_any_number_of_channels() -> None:
    encoder = build_encoder("resnet18", width=0.125, stem="small", channels=5)
    assert encoder(torch.rand(2, 5, 16, 16)).shape == (2, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet20"}, "encoder.name = 'resnet20'; did you mean 'resnet"),
        ({"stem": "smal"}, "encoder.stem = 'smal'; did you mean 'small'"),
        ({"width": 0.3}, "encoder.width = 0.3"),
        ({"width": 0}, "encoder.width = 0"),
        ({"width": 7 / 64}, r"encoder.width = 0.109375: .* at least 8 \(width 0.125\)"),
    ],
)
def test_what_cannot_be_built_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"name": "resnet18", **change}
    with pytest.raises(RecipeError, match=message):
        build_encoder(**arguments)  # type: ignore[arg-type]
