"""Where the images of an extraction are embedded: on this machine, or elsewhere."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from export.encoder_file.encoder_file import Encoder
from images.items import Item
from images.pixels.preprocess import load_image
from serving.embedding.embed import embed
from serving.embedding.per_item import Load, Seconds
from serving.embedding.results import Outcome


class ExtractionEngine(Protocol):
    """Embeds batches of items; `LocalEngine`, or `ray_engine.RayEngine` on a cluster."""

    @property
    def remote(self) -> bool:
        """Whether other machines read the items: what one notes when it is read stays there."""

    def embed(
        self, encoder: Encoder, batches: Iterable[list[Item]], *, seconds: Seconds
    ) -> Generator[list[Outcome]]:
        """Yield for each batch the outcomes of its items, in order; `seconds` grows meanwhile."""


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """All cores of this machine, or its GPU.

    Attributes:
        load: decodes one image; called in the threads.
    """

    remote: ClassVar[bool] = False
    load: Load = load_image

    def embed(
        self, encoder: Encoder, batches: Iterable[list[Item]], *, seconds: Seconds
    ) -> Generator[list[Outcome]]:
        """Embed as `serving.embedding.embed.embed` does."""
        return embed(encoder, batches, seconds=seconds, load=self.load)
