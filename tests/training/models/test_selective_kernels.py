import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.errors import RecipeError
from training.models.encoders import build_encoder
from training.models.selective_kernels import SelectiveBottleneck, SelectiveConv, pooled_shortcut


@pytest.mark.parametrize(
    ("name", "width", "selective", "millions"),
    [  # Chen et al. 2020b, table 1
        ("resnet50", 1, False, 24),
        ("resnet50", 1, True, 35),
        ("resnet101", 2, True, 257),
        ("resnet152", 3, True, 795),
    ],
)
def test_parameter_counts_are_those_of_the_second_paper(
    name: str, width: float, *, selective: bool, millions: int
) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, width=width, stem="imagenet", selective_kernels=selective)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.75)


def randomized(module: nn.Module) -> nn.Module:
    """Every batch norm with statistics, scale and shift of its own, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert values is not None
                values.data.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def normed(x: np.ndarray, norm: nn.BatchNorm2d) -> np.ndarray:
    mean, var, scale, shift = (
        t.detach().double().numpy()  # type: ignore[union-attr]
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    shape = (-1, *[1] * (x.ndim - 1))
    whitened = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + norm.eps)
    result: np.ndarray = whitened * scale.reshape(shape) + shift.reshape(shape)
    return result


def convolved(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """One output value at a time; x is [C,H,W]."""
    kernel = conv.weight.detach().double().numpy()
    side, stride = kernel.shape[2], conv.stride[0]
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    rows = (padded.shape[1] - side) // stride + 1
    columns = (padded.shape[2] - side) // stride + 1
    out = np.zeros((len(kernel), rows, columns))
    for o, r, c in np.ndindex(out.shape):
        top, left = r * stride, c * stride
        out[o, r, c] = (kernel[o] * padded[:, top : top + side, left : left + side]).sum()
    return out


@pytest.mark.parametrize("stride", [1, 2])
def test_two_streams_are_mixed_as_written_down(stride: int) -> None:
    torch.manual_seed(0)
    module = randomized(SelectiveConv(3, 4, stride))
    assert isinstance(module, SelectiveConv)
    x = torch.rand(2, 3, 5, 6)
    got = module(x).detach().numpy()
    for image, result in zip(x.double().numpy(), got, strict=True):
        both = np.maximum(normed(convolved(image, module.conv), module.bn), 0)
        first, second = both[:4], both[4:]
        pooled = (first + second).mean((1, 2))
        inner = module.squeeze.weight.detach().double().numpy()[..., 0, 0] @ pooled
        inner = np.maximum(normed(inner, module.squeeze_bn), 0)
        a, b = np.split(module.mix.weight.detach().double().numpy()[..., 0, 0] @ inner, 2)
        share = (np.exp(a) / (np.exp(a) + np.exp(b)))[:, None, None]
        np.testing.assert_allclose(result, share * first + (1 - share) * second, rtol=1e-4)


@pytest.mark.parametrize(("stride", "side"), [(1, 4), (2, 4), (2, 5)])
def test_the_shortcut_pools_as_tensorflow_does(stride: int, side: int) -> None:
    pool = pooled_shortcut(2, 2, stride)[0]
    x = torch.rand(1, 2, side, side)
    got = pool(x)
    assert got.shape[2] == -(-side // stride)
    for c, r, k in np.ndindex(*got.shape[1:]):
        window = x[0, c, r * stride : r * stride + 2, k * stride : k * stride + 2]
        # padding "SAME" (stride 1) leaves it out of the mean, `fixed_padding` (stride 2) does not
        expected = window.mean() if stride == 1 else window.sum() / 4
        assert got[0, c, r, k].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_mixing_network_grows_with_the_block_and_never_gets_narrow() -> None:
    with torch.device("meta"):
        inner = [SelectiveConv(8, planes, 1).squeeze.out_channels for planes in (8, 512, 2048)]
    assert inner == [32, 32, 128]


@pytest.mark.parametrize(("stem", "convolutions"), [("imagenet", 3), ("small", 1)])
def test_the_deep_stem_is_for_large_images(stem: str, convolutions: int) -> None:
    encoder = build_encoder("resnet50", width=0.125, stem=stem, selective_kernels=True)  # type: ignore[arg-type]
    stemmed = [m for m in encoder.get_submodule("conv1").modules() if isinstance(m, nn.Conv2d)]
    assert len(stemmed) == convolutions
    assert stemmed[-1].out_channels == 8
    blocks = [m for m in encoder.modules() if isinstance(m, SelectiveBottleneck)]
    assert len(blocks) == 16
    assert not any(m.bn3.weight.any() for m in blocks)  # they start as the identity
    h: Tensor = encoder(torch.rand(2, 3, 40, 40))
    assert h.shape == (2, 256)
    h.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in encoder.parameters())


def test_selective_kernels_need_bottlenecks() -> None:
    with pytest.raises(RecipeError, match="resnet18 has no bottlenecks"):
        build_encoder("resnet18", selective_kernels=True)
