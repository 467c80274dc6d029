"""Anybody's file of weights to a draft of an encoder file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import UsageError
from export.convert.onnx_graph import NO_LICENSE, OPSET, draft_encoder
from training.weights.foreign_encoder import load_foreign_encoder
from training.weights.foreign_weights import read_foreign_weights

if TYPE_CHECKING:
    import os

    from export.convert.onnx_graph import Draft
    from training.weights.foreign_encoder import ForeignWeights
    from training.weights.weight_layouts import Rgb


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """What the user knows of a file of weights better than the file does; None: find it.

    Attributes:
        encoder: name of the encoder; else it is found from the shapes.
        prefix: where the encoder stands in the file; else it is found from the names.
        image_size: side of the images; else what the layout is known to use.
        mean: of images in [0,1]; likewise.
        std: likewise.
    """

    encoder: str | None = None
    prefix: str | None = None
    image_size: int | None = None
    mean: Rgb | None = None
    std: Rgb | None = None

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are typed."""
        names = (field.name for field in fields(self) if getattr(self, field.name) is not None)
        return [f"--{name.replace('_', '-')}" for name in names]


def draft_weights(
    weights: str | os.PathLike[str],
    *,
    options: WeightOptions | None = None,
    opset: int = OPSET,
    licence_note: str = NO_LICENSE,
) -> tuple[Draft, ForeignWeights]:
    """Return the encoder in a checkpoint of somebody else's as an encoder file to be written.

    Args:
        weights: see `training.weights.foreign_weights.read_foreign_weights`.
        options: what is known better than the file says it.
        opset: version of the ONNX operator set.
        licence_note: what the file shall say about the license of its weights.

    Returns:
        the draft, and what was found in the file.

    Raises:
        ArtifactError: missing or damaged, no encoder in it, or several.
        UsageError: an argument out of range.
    """
    known = options or WeightOptions()
    found = read_foreign_weights(
        Path(weights),
        encoder=known.encoder,
        prefix=known.prefix,
        image_size=known.image_size,
    )
    trained = load_foreign_encoder(
        found,
        file=Path(weights).name,
        image_size=known.image_size,
        mean=known.mean,
        std=known.std,
    )
    return draft_encoder(trained, opset=opset, licence_note=licence_note), found


def rgb(text: str | None, name: str) -> Rgb | None:
    """One number for all channels, or three with commas between them: "0.5" or "0.5,0.4,0.3".

    Raises:
        UsageError: something else; the message names the option.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers = numbers * 3
    if len(numbers) != 3:
        raise UsageError(f"--{name} {text}: give one number or three, as in 0.485,0.456,0.406")
    red, green, blue = numbers
    return red, green, blue
