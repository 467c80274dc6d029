"""An encoder with somebody else's weights, and what its maker's encoder does differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.errors import UsageError
from images.pixels.preprocess import PreprocessSpec
from training.models.encoders import ResNetEncoder, Stem, build_encoder
from training.run_folder.checkpoint import TrainedEncoder
from training.weights.library_settings import CROP_SHARE, resize_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from images.pixels.preprocess import Resample
    from training.models.encoder_module import EncoderModule
    from training.weights.weight_layouts import Rgb

SMALLEST = 8  # px


def _pad_by_two(module: ResNetEncoder) -> None:
    module.conv1.padding = (2, 2)


def _leave_out_relu(module: ResNetEncoder) -> None:
    module.add_module("relu", nn.Identity())


def _pool_from_the_corner(module: ResNetEncoder) -> None:
    """As TensorFlow pads "SAME" an even side; the zeros stand beside what a ReLU let through."""
    if isinstance(module.maxpool, nn.MaxPool2d):
        pad = nn.ZeroPad2d((0, 1, 0, 1))
        module.add_module("maxpool", nn.Sequential(pad, nn.MaxPool2d(3, stride=2)))


QUIRKS: Mapping[str, Callable[[ResNetEncoder], None]] = {
    "first convolution padded by 2": _pad_by_two,
    "no ReLU before the first stage": _leave_out_relu,
    "max-pool padded below and on the right": _pool_from_the_corner,
}


@dataclass(frozen=True, kw_only=True)
class ForeignWeights:
    """An encoder's weights from a file of somebody else's, ready to be loaded.

    `build_encoder(encoder, width=width, stem=stem)` takes `state` as it is.
    """

    layout: str
    prefix: str  # what stood before the encoder's names
    encoder: str
    width: float
    stem: Stem
    selective_kernels: bool = False
    state: dict[str, Tensor]
    dropped: tuple[str, ...]  # "projection_head (4 tensors)": what was not taken
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop_share: float = CROP_SHARE  # of the short side, what the center crop keeps
    resample: Resample = "bicubic"
    quirks: tuple[str, ...]  # names of `QUIRKS`: what its maker's encoder does differently
    sha256: str  # of the file

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        where = f" under '{self.prefix}'" if self.prefix else ""
        wide = "" if self.width == 1 else f", width {self.width:g}"
        left = f"; left behind: {', '.join(self.dropped)}" if self.dropped else ""
        stem = f", stem {self.stem}" if self.stem != "auto" else ""
        return f"found {self.encoder}{wide}{stem}, {self.layout}{where}{left}"

    def card(self, file: str) -> dict[str, Any]:
        """Where the weights came from, for the encoder file."""
        return {
            "file": file,
            "layout": self.layout,
            "prefix": self.prefix,
            "encoder": self.encoder,
            "width": self.width,
            "stem": self.stem,
            "quirks": list(self.quirks),
            "left_behind": list(self.dropped),
        }

    def build(self) -> EncoderModule:
        """Return the encoder with these weights, evaluating, on the CPU: [N,3,S,S] -> [N,D]."""
        with torch.random.fork_rng(devices=[]):
            module = build_encoder(
                self.encoder,
                width=self.width,
                stem=self.stem,
                image_size=self.image_size,
                selective_kernels=self.selective_kernels,
            )
        module.load_state_dict(self.state)
        for quirk in self.quirks:
            assert isinstance(module, ResNetEncoder)  # they are of ResNets
            QUIRKS[quirk](module)
        return module.eval()


def load_foreign_encoder(
    weights: ForeignWeights,
    *,
    file: str,
    image_size: int | None = None,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    short_side: int | None = None,
    resample: Resample | None = None,
) -> TrainedEncoder:
    """Foreign weights as an encoder that can be exported, evaluated and compared.

    Args:
        weights: from `read_foreign_weights`.
        file: the file's name, for the card.
        image_size: side of the images in pixels; None: the layout's.
        mean: of images in [0,1]; None: the layout's.
        std: likewise.
        short_side: of the images before the center crop, in pixels; None: the layout's.
        resample: the filter; None: the layout's.

    Raises:
        UsageError: a size, mean, std or filter that cannot be used.
    """
    size = image_size or weights.image_size
    if size < SMALLEST:
        raise UsageError(f"image size {size}: it must be at least {SMALLEST} pixels")
    shift, scale = mean or weights.mean, std or weights.std
    if min(scale) <= 0:
        raise UsageError(f"std {', '.join(map(str, scale))}: each must be above 0")
    spec = PreprocessSpec(
        size=size,
        resize_to=short_side or resize_to(size, weights.crop_share),
        resample=resample or weights.resample,
    )
    return TrainedEncoder(
        module=weights.build(),
        preprocess=spec,
        mean=shift,
        std=scale,
        recipe={"name": f"weights of {weights.layout}", "weights": weights.card(file)},
        quality={},
        sha256=weights.sha256,
    )
