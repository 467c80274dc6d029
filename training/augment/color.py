"""Color jitter on planes float32 [C, N, P] in [0, 1] (P pixels), each image with its own factors.

Brightness, contrast and saturation are one formula with different coefficients (torchvision's
adjust_*), so that one pass serves images which are at different operations of their order:

    x <- clip(scale * x + to_gray * gray(x) + to_mean * mean(gray(x)), 0, 1)

Only hue is another thing.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from training.augment import per_image
from training.augment.per_image import PerImage, selected_indices

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # as torchvision numbers them
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue in gray


@dataclass(frozen=True, kw_only=True)
class Jitter(PerImage):
    """The color operations of N images. None: no image has the operation."""

    jittered: Tensor  # bool [N]; the other images have neutral factors
    position: Tensor  # int64 [N, 4]: when brightness, contrast, saturation and hue come, 0..3
    brightness: Tensor | None  # float32 [N], factor
    contrast: Tensor | None  # float32 [N], factor
    saturation: Tensor | None  # float32 [N], factor
    hue: Tensor | None  # float32 [N], turns

    @property
    def steps(self) -> dict[int, Tensor]:
        """Factors of the operations that are steps of the formula, by column of `position`."""
        factors = {
            BRIGHTNESS: self.brightness,
            CONTRAST: self.contrast,
            SATURATION: self.saturation,
        }
        return {op: factor for op, factor in factors.items() if factor is not None}

    def hue_before(self) -> Tensor:
        """Return the step 0..T that hue precedes, int64 [N]; -1 where the image is not jittered."""
        step = torch.zeros_like(self.position[:, HUE])
        for op in self.steps:
            step += self.position[:, op] < self.position[:, HUE]
        return step.masked_fill_(~self.jittered, -1)

    def without_color(self) -> Self | None:
        """Return what there is to do for gray images."""
        if self.brightness is None and self.contrast is None:
            return None
        return replace(self, saturation=None, hue=None)


def jitter_(planes: Tensor, jitter: Jitter) -> None:
    """Apply the operations to planes [C, N, P] in place; the images sorted by `hue_before`."""
    hue_before = jitter.hue_before()
    spans = _spans(hue_before, len(jitter.steps))
    busy = slice(spans[0].start, None)
    steps = _coefficients(jitter[busy])
    for step, span in enumerate(spans):
        if jitter.hue is not None and span.start < span.stop:
            turns = torch.where(hue_before[span] == step, jitter.hue[span], 0.0)
            shift_hue_(planes[:, span], turns[:, None])
        if step < len(steps):
            blend_(planes[:, busy], *steps[step])


def _coefficients(jitter: Jitter) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Return the steps T of the formula: scale, to_mean and to_gray [N, 1] of each image's turn."""
    factors = jitter.steps
    if not factors:
        return []
    # [T, N]: which of the operations has its turn at each step
    turn = torch.stack([jitter.position[:, op] for op in factors], 1).argsort(1).t()
    scale = torch.stack([*factors.values()]).gather(0, turn)[:, :, None]

    def rest(op: int) -> list[Tensor | None]:
        """Return what `op` leaves of the scale for its other term."""
        if op not in factors:
            return [None] * len(factors)
        mine = turn[:, :, None] == list(factors).index(op)
        return list(torch.where(mine, 1 - scale, 0.0))

    return list(zip(scale, rest(CONTRAST), rest(SATURATION), strict=True))


def _spans(hue_before: Tensor, steps: int) -> list[slice]:
    """Where the images of each step lie; everywhere, if looking would make the host wait."""
    if not per_image.host_can_look(hue_before):
        return [slice(0, len(hue_before))] * (steps + 1)
    ends = torch.bincount(hue_before + 1, minlength=steps + 2).cumsum(0).tolist()
    return [slice(*ends) for ends in itertools.pairwise(ends)]


def to_gray_(planes: Tensor, mask: Tensor) -> None:
    """Make the images of planes [3, N, P] gray where mask [N] is set, in place."""
    index = selected_indices(mask)
    selection = planes.index_select(1, index)
    selection.lerp_(gray(selection), mask[index, None].float())
    planes.index_copy_(1, index, selection)


def blend_(planes: Tensor, scale: Tensor, to_mean: Tensor | None, to_gray: Tensor | None) -> None:
    """One step of the formula at the top, in place; the coefficients are [N, 1]."""
    if to_gray is not None:
        rest = gray(planes)
        mean = None if to_mean is None else rest.mean(1, keepdim=True) * to_mean
        rest *= to_gray
        if mean is not None:
            rest += mean
    elif to_mean is not None:
        rest = gray(planes.mean(2, keepdim=True)) * to_mean
    else:
        planes.mul_(scale).clamp_(0, 1)
        return
    torch.addcmul(rest, planes, scale, out=planes).clamp_(0, 1)


def gray(planes: Tensor) -> Tensor:
    """Luma [N, P] of planes [C, N, P]; a single plane is gray already."""
    if len(planes) == 1:
        return planes[0]
    if len(planes) != 3:  # of many channels none is nearer to what the eye sees
        return planes.mean(0)
    red, green, blue = planes.unbind()
    luma = red * LUMA[0]
    return luma.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def shift_hue_(planes: Tensor, turns: Tensor) -> None:
    """Turn the hue of RGB planes [3, N, P] by turns [N, 1] in [-0.5, 0.5], in place.

    HSV without its six cases. With h the hue in sixths of a turn, -3..3 from red, low and high the
    least and greatest channel and chroma their difference:

        chroma * |h| = green + blue - red + high - 2 low,   h > 0 where green > blue
        red   = low + chroma * clip(2 - |h|)
        green = low + chroma * clip(|h + 1| - 1),   blue = low + chroma * clip(|h - 1| - 1)
    """
    red, green, blue = planes.unbind()
    low, chroma = planes.amin(0), planes.amax(0)
    h = (green + blue).sub_(red).add_(chroma).sub_(low, alpha=2)
    chroma -= low
    h /= chroma.clamp(min=1e-12)  # 0 where all channels are equal: any hue will do
    torch.copysign(h, torch.sub(green, blue, out=red), out=h)
    h += 6 * turns
    h.sub_((h / 6).round_(), alpha=6)
    red.copy_(h)
    torch.add(h, 1, out=green)
    torch.sub(h, 1, out=blue)
    planes.abs_().clamp_(1, 2)  # clip(t - 1, 0, 1) is clip(t, 1, 2) - 1
    low -= chroma
    torch.addcmul(low, chroma, planes[1:], out=planes[1:])
    low.add_(chroma, alpha=3)
    torch.addcmul(low, chroma, red, value=-1, out=red)
