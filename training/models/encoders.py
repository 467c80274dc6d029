"""Encoders f(.): images to features h, the representation that is kept.

ResNet-18/34/50/101/152 (He et al. 2015) from torchvision's blocks, without the classifier, with a
width multiplier on every channel count (SimCLR section 4.1: 1x, 2x, 4x; below 1 for CPUs), three
stems and, for SimCLR v2, selective kernels. Parameter names are torchvision's, so that its weights
fit at width 1. Where google-research/simclr differs from torchvision, torchvision is followed: no
projection on the first shortcut of ResNet-18 and 34, and a max-pool padded on both sides. All other
names are those of `backbones.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from torchvision.models.resnet import (
    BasicBlock,
    Bottleneck,
    conv1x1,
)

from base.text import did_you_mean
from training.errors import RecipeError, require
from training.models.backbones import build_backbone, check_name
from training.models.encoder_module import EncoderModule
from training.models.selective_kernels import SelectiveBottleneck, deep_stem, pooled_shortcut

if TYPE_CHECKING:
    from collections.abc import Mapping

Stem = Literal["auto", "imagenet", "small", "small-stride2"]
BuiltStem = Literal["imagenet", "small", "small-stride2"]
STEMS: tuple[Stem, ...] = ("auto", "imagenet", "small", "small-stride2")
SMALL_IMAGE = 64  # the largest size (px) that stem "auto" treats as small
# oneDNN (torch 2.15, AVX2) writes past the end of a channels_last convolution of 1x1 and stride 2
# that reads fewer: the heap is damaged, the process aborts
FEWEST_CHANNELS = 8

Block = type[BasicBlock] | type[Bottleneck] | type[SelectiveBottleneck]
RESNETS: Mapping[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNetEncoder(EncoderModule):
    """A ResNet up to its global average pool: float [N,C,S,S] -> h [N,feature_dim].

    Convolutions are drawn from He's normal distribution (fan out), batch norms start at scale 1 and
    shift 0 with momentum 0.1 and eps 1e-5 (0.9 in TensorFlow's notation, as in the paper's code).
    With `zero_init_residual` the last batch norm of each block starts at scale 0, so that each
    block starts as the identity (google-research/simclr, resnet.py: `init_zero=True`).
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        *,
        channels: int,
        stem: BuiltStem,
        zero_init_residual: bool,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1: nn.Conv2d | nn.Sequential
        if stem == "imagenet" and block is SelectiveBottleneck:
            self.conv1 = deep_stem(in_channels, channels)
        elif stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        else:
            stride = 2 if stem == "small-stride2" else 1
            self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        width = channels
        stages = []
        for stage, depth in enumerate(depths):
            planes = channels * 2**stage
            stages.append(_stage(block, width, planes, depth, stride=1 if stage == 0 else 2))
            width = planes * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = width
        self._initialize(zero_init_residual=zero_init_residual)

    def _initialize(self, *, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck | SelectiveBottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Float [N,C,S,S] -> h, [N,feature_dim]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [N,D,S/32,S/32] at most
        h: Tensor = self.avgpool(x).flatten(1)
        return h


def _stage(block: Block, width: int, planes: int, depth: int, *, stride: int) -> nn.Sequential:
    """`depth` residual blocks; the first one changes resolution and channels."""
    out = planes * block.expansion
    shortcut = None
    if block is SelectiveBottleneck:
        shortcut = pooled_shortcut(width, out, stride)
    elif stride != 1 or width != out:
        shortcut = nn.Sequential(conv1x1(width, out, stride), nn.BatchNorm2d(out))
    first = block(width, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out, planes) for _ in range(depth - 1)))


def build_encoder(
    name: str,
    *,
    width: float = 1,
    stem: Stem = "auto",
    image_size: int = 224,
    zero_init_residual: bool = True,
    selective_kernels: bool = False,
    channels: int = 3,
) -> EncoderModule:
    """Build an untrained encoder from torch's global random state.

    Args:
        name: one of `RESNETS`, or of `backbones.py`, which has neither width nor stem.
        width: channel multiplier; 64 * width must be a whole number, 8 or more (width 0.125).
        stem: "imagenet" is 7x7 stride 2 and max-pool; "small" is 3x3 stride 1 without max-pool
            (appendix B.9, for CIFAR-10); "small-stride2" is 3x3 stride 2 without max-pool, a third
            of the cost of "small" on a CPU; "auto" takes "small" up to 64 px, else "imagenet".
        image_size: side of the images in pixels; for "auto" and vision transformers.
        zero_init_residual: see `ResNetEncoder`.
        selective_kernels: see `selective_kernels.py`; for ResNet-50 and deeper.
        channels: of the images.

    Raises:
        RecipeError: see `check_encoder` and `backbones.build_backbone`.
    """
    check_encoder(name, width=width, stem=stem, selective_kernels=selective_kernels)
    if name not in RESNETS:
        return build_backbone(name, image_size=image_size, channels=channels)
    block, depths = RESNETS[name]
    return ResNetEncoder(
        SelectiveBottleneck if selective_kernels else block,
        depths,
        channels=round(64 * width),
        stem=resolve_stem(stem, image_size),
        zero_init_residual=zero_init_residual,
        in_channels=channels,
    )


def resolve_stem(stem: Stem, image_size: int) -> BuiltStem:
    """Return the stem that is built for images of some size (px): "auto" decides by it."""
    if stem == "auto":
        return "small" if image_size <= SMALL_IMAGE else "imagenet"
    return stem


def stem_of_kernel(side: int) -> BuiltStem:
    """Return the stem whose first convolution has kernels of this side; strides do not show."""
    return "imagenet" if side == 7 else "small"


def check_encoder(name: str, *, width: float, stem: Stem, selective_kernels: bool) -> None:
    """Refuse what `build_encoder` cannot build, as far as that shows without building it.

    Raises:
        RecipeError: unknown name or stem, a width that gives a broken channel count, selective
            kernels on a ResNet without bottlenecks, or any of these without a ResNet.
    """
    if name not in RESNETS:
        check_name(name)
        if width != 1 or stem != "auto" or selective_kernels:
            raise RecipeError(
                f"encoder.name = '{name}': width, stem and selective_kernels are for ResNets; take "
                f'these keys out or set encoder.width=1, encoder.stem="auto" and '
                "encoder.selective_kernels=false"
            )
        return
    if stem not in STEMS:
        raise RecipeError(f"encoder.stem = '{stem}'{did_you_mean(stem, STEMS)}")
    channels = 64 * width
    if channels < FEWEST_CHANNELS or channels != int(channels):
        raise RecipeError(
            f"encoder.width = {width}: 64 * width must be a whole number of channels, at least "
            f"{FEWEST_CHANNELS} (width {FEWEST_CHANNELS / 64})"
        )
    if selective_kernels and RESNETS[name][0] is not Bottleneck:
        raise RecipeError(f"{name} has no bottlenecks: selective kernels need resnet50 or deeper")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The table [encoder] of a recipe, f(.); all but name and weights is for ResNets."""

    name: str = "resnet18"
    width: float = 1.0
    stem: Stem = "auto"
    zero_init_residual: bool = True
    selective_kernels: bool = False  # SimCLR v2
    weights: str | None = None  # to start from, see `start_weights.py`; default: random ones
    weights_sha256: str | None = None  # of the file they were in; filled in when a run starts

    def __post_init__(self) -> None:
        check_encoder(
            self.name,
            width=self.width,
            stem=self.stem,
            selective_kernels=self.selective_kernels,
        )
        require(
            self.weights is not None or self.weights_sha256 is None,
            "encoder.weights_sha256 without encoder.weights",
        )
