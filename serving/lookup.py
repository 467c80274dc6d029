"""Searching a collection from the command line: by image files and by keys."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.encoder_file import Encoder, open_encoder
from images.errors import UsageError
from images.paths import path_item
from serving.collection import AnyCollection, Hit
from serving.embed import BATCH_SIZE, embed, in_batches
from serving.outcomes import Embedded, Refused


@dataclass(frozen=True, slots=True)
class Answer:
    """A query in words (an image's path or an item's key) and what it found."""

    query: str
    neighbours: list[Hit]

    def to_dict(self) -> dict[str, Any]:
        """The answer, ready for JSON."""
        return asdict(self)


def encoder_of(collection: AnyCollection, given: Path | None) -> Encoder:
    """Open a collection's encoder: the file given, or where it was last seen.

    Raises:
        UsageError: none is given and none is there.
        ArtefactError: it is not an encoder, or not the collection's.
    """
    hint = collection.encoder_path
    if given is None and (hint is None or not Path(hint).is_file()):
        where = f"is no longer at {hint}" if hint else "was not noted"
        raise UsageError(f"the encoder of {collection.place} {where}; give it with --encoder FILE")
    encoder = open_encoder(given or Path(str(hint)))
    collection.check_encoder(encoder.digest)
    return encoder


def search_images(
    collection: AnyCollection,
    paths: Sequence[Path],
    *,
    k: int,
    min_score: float | None,
    exact: bool = False,
    encoder: Path | None,
) -> tuple[list[Answer], list[Refused]]:
    """Search with image files; those that cannot be used are refused one by one.

    Raises:
        UsageError, ArtefactError: as ``encoder_of``.
    """
    if not paths:
        return [], []
    opened = encoder_of(collection, encoder)
    items = [path_item(path.absolute(), str(path), None) for path in paths]
    outcomes = [out for batch in embed(opened, in_batches(items, BATCH_SIZE)) for out in batch]
    embedded = [outcome for outcome in outcomes if isinstance(outcome, Embedded)]
    vectors = [outcome.embedding for outcome in embedded]
    hits = collection.search(vectors, k, min_score=min_score, exact=exact)
    answers = [Answer(out.key, found) for out, found in zip(embedded, hits, strict=True)]
    return answers, [outcome for outcome in outcomes if isinstance(outcome, Refused)]


def search_keys(
    collection: AnyCollection,
    keys: Sequence[str],
    *,
    k: int,
    min_score: float | None,
    exact: bool = False,
) -> list[Answer]:
    """Search with items of the collection; an item does not find itself.

    Raises:
        KeyUnknown: an item is not there.
    """
    return [
        Answer(key, collection.similar(key, k, min_score=min_score, exact=exact)) for key in keys
    ]
