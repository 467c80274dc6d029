"""The table [data] of a recipe: how images are stored and what they become."""

from dataclasses import dataclass
from typing import Literal

from images.pixels.preprocess import PreprocessSpec, check_channels, checked_range
from training.errors import RecipeError, require

RGB_MEAN, RGB_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the paper leaves images in [0,1]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How images are stored for training and prepared for evaluation, export and serving."""

    image_size: int  # px, side of the views and of what the exported encoder sees
    stored_size: int | None = None  # px, short side of the cached images; default image_size
    stored_shape: Literal["own", "square"] = "own"  # crops see the whole image or its middle
    cache: Literal["auto", "memory", "disk", "stream"] = "auto"  # see `open_training_data`
    evaluation_resize: int | None = None  # px, short side before the center crop; image_size
    resize: Literal["short-side", "stretch"] = "short-side"
    resample: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    channels: int = 3  # of the images; 3 means RGB, gray ones included
    range: tuple[float, float] | Literal["auto"] | None = None  # values that become 0 and 255
    mean: tuple[float, ...] = RGB_MEAN  # one number a channel
    std: tuple[float, ...] = RGB_STD

    def __post_init__(self) -> None:
        require(self.image_size >= 8, f"data.image_size = {self.image_size}: must be at least 8")
        for name in ("stored_size", "evaluation_resize"):
            size = getattr(self, name)
            require(
                size is None or size >= self.image_size,
                f"data.{name} = {size}: must not be below image_size = {self.image_size}",
            )
        require(
            self.resize == "short-side" or self.evaluation_resize is None,
            'data.evaluation_resize is for data.resize = "short-side": stretching crops nothing',
        )
        check_channels(self.channels)
        if self.range is not None and self.range != "auto":
            object.__setattr__(self, "range", checked_range(self.range))
        for name, usual in (("mean", RGB_MEAN), ("std", RGB_STD)):
            if getattr(self, name) == usual:  # the defaults fit any number of channels
                object.__setattr__(self, name, (usual[0],) * self.channels)
            values = getattr(self, name)
            require(
                len(values) == self.channels,
                f"data.{name} = {list(values)}: must be {self.channels} numbers, one a channel",
            )
        require(min(self.std) > 0, f"data.std = {list(self.std)}: must be above 0")

    @property
    def values(self) -> tuple[float, float] | None:
        """The range as numbers, measured where "auto" was given (`value_range.resolve_range`)."""
        if self.range == "auto":
            raise RecipeError('data.range = "auto": it is measured when training begins')
        return self.range

    @property
    def whole(self) -> bool:
        """Whether images are cached in their own shape; stretched ones are squares."""
        return self.stored_shape == "own" and self.resize == "short-side"

    @property
    def stored_side(self) -> int:
        """Pixels of the side of what is cached."""
        return self.stored_size or self.image_size

    @property
    def stored(self) -> PreprocessSpec:
        """The square that is cached, larger than a view where crops need something to crop from."""
        return PreprocessSpec(
            size=self.stored_side,
            resize=self.resize,
            resample=self.resample,
            channels=self.channels,
            range=self.values,
        )

    @property
    def evaluation(self) -> PreprocessSpec:
        """The square that the finished encoder sees."""
        return PreprocessSpec(
            size=self.image_size,
            resize=self.resize,
            resize_to=self.evaluation_resize,
            resample=self.resample,
            channels=self.channels,
            range=self.values,
        )
