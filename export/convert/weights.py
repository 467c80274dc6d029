"""Another library's file of weights to a draft of an encoder file."""

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
    from images.pixels.preprocess import Resample
    from training.weights.foreign_encoder import ForeignWeights
    from training.weights.weight_layouts import Rgb


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """What the user states about a file of weights; None: what the file shows.

    Attributes:
        encoder: name of the encoder; None: by the shapes.
        prefix: what precedes the encoder's names in the file; None: by the names.
        image_size: side of the images; None: what the layout usually has.
        mean: of images in [0,1]; None: likewise.
        std: None: likewise.
        resize_to: short side before the center crop; None: likewise.
        resample: the filter; None: likewise.
    """

    encoder: str | None = None
    prefix: str | None = None
    image_size: int | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    resize_to: int | None = None
    resample: Resample | None = None

    @property
    def flags(self) -> list[str]:
        """The options that are set, as they are typed."""
        names = (field.name for field in fields(self) if getattr(self, field.name) is not None)
        return [f"--{name.replace('_', '-')}" for name in names]


def draft_weights(
    weights: str | os.PathLike[str],
    *,
    options: WeightOptions | None = None,
    opset: int = OPSET,
    licence_note: str = NO_LICENSE,
) -> tuple[Draft, ForeignWeights]:
    """Turn the encoder in another library's checkpoint into a draft of an encoder file.

    Args:
        weights: see `training.weights.foreign_weights.read_foreign_weights`.
        options: what the user states.
        opset: version of the ONNX operator set.
        licence_note: what the file says about the license of its weights.

    Returns:
        the draft, and the encoder's weights as they were in the file.

    Raises:
        ArtifactError: missing or damaged, no encoder in it, or several.
        UsageError: an argument out of range.
    """
    path, options = Path(weights), options or WeightOptions()
    foreign = read_foreign_weights(
        path, encoder=options.encoder, prefix=options.prefix, image_size=options.image_size
    )
    trained = load_foreign_encoder(
        foreign,
        file=path.name,
        image_size=options.image_size,
        mean=options.mean,
        std=options.std,
        short_side=options.resize_to,
        resample=options.resample,
    )
    return draft_encoder(trained, opset=opset, licence_note=licence_note), foreign


def rgb(text: str | None, name: str) -> Rgb | None:
    """Parse one number for all channels, or three with commas: "0.5" or "0.5,0.4,0.3".

    Raises:
        UsageError: the text is neither; the message names the option.
    """
    if text is None:
        return None
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers = numbers * 3
    if len(numbers) != 3:
        raise UsageError(f"--{name} {text}: give one number or three, as in 0.485,0.456,0.406")
    red, green, blue = numbers
    return red, green, blue
