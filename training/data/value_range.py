"""data.range = "auto": which values of a source become black and white.

A few images are looked at; 0.1% of their values may lie below the range and 0.1% above it, so
that a dead pixel does not decide. The range is measured once, before training, and written into the
recipe and the encoder file: training, extraction and serving scale alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ImageRefused, SourceError
from images.pixels.decode import DEFAULT_MAX_PIXELS
from images.pixels.planes import values_of
from training.data.sampling import spread

if TYPE_CHECKING:
    from images.sources.sources import Source
    from training.augment.augment import Augmentation
    from training.data.settings import DataSettings

LOOK_AT = 64  # images
VALUES = 10_000  # of each
OUTSIDE = 0.1  # percent, at either end


def resolve_range(settings: DataSettings, source: Source) -> DataSettings:
    """Return the settings with numbers for the range.

    Raises:
        SourceError: no image could be read, or all their values are the same.
    """
    if settings.range != "auto":
        return settings
    return replace(settings, range=measure_range(source, settings.channels))


def describe_values(settings: DataSettings, augmentation: Augmentation) -> list[str]:
    """Return what differs from a run on photographs, a line each."""
    lines = []
    if settings.values is not None:
        lines.append("values {:g} to {:g} become 0 to 255 (data.range)".format(*settings.values))
    if settings.channels != 3 and any(
        (augmentation.saturation, augmentation.hue, augmentation.grayscale)
    ):
        off = "saturation, hue and grayscale are for RGB and switched off"
        lines.append(f"pictures of {settings.channels} channels: {off}")
    return lines


def measure_range(source: Source, channels: int) -> tuple[float, float]:
    """Return the range of a source's values but `OUTSIDE`, in whole numbers where they are whole.

    Raises:
        SourceError: as `resolve_range`.
    """
    positions = set(spread(len(source), LOOK_AT).tolist())
    drawn, whole, problem = [], True, ""
    for position, item in enumerate(source):
        if position not in positions:
            continue
        try:
            values = values_of(item.read(), channels, max_pixels=DEFAULT_MAX_PIXELS).ravel()
        except ImageRefused as refused:
            problem = f" ({item.key}: {refused})"
            continue
        whole = whole and values.dtype.kind != "f"
        sample = values[spread(len(values), VALUES)].astype(np.float64)
        drawn.append(sample[np.isfinite(sample)])
    if not drawn:
        raise SourceError(f'data.range = "auto": none of {source.name} could be read{problem}')
    low, high = np.percentile(np.concatenate(drawn), [OUTSIDE, 100 - OUTSIDE]).tolist()
    if whole:
        low, high = float(np.floor(low)), float(np.ceil(high))
    if not low < high:
        raise SourceError(f'data.range = "auto": all values of {source.name} are {low:g}')
    return low, high
