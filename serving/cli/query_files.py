"""Queries from the command line: by image files and by keys."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.errors import UsageError
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import RefusedImage
from images.sources.paths import path_item
from serving.collection import AnyCollection, Hit, Suggestion
from serving.embedding.embed import BATCH_SIZE, embed, in_batches
from serving.embedding.results import EmbeddedImage


@dataclass(frozen=True, slots=True)
class Answer:
    """A query (an image's path, an item's key, or several) and its hits."""

    query: str
    neighbours: list[Hit]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer, ready for JSON."""
        return asdict(self)


def encoder_of(collection: AnyCollection, path: Path | None) -> Encoder:
    """Open a collection's encoder: the file at `path`, or where it was last seen.

    Raises:
        UsageError: `path` is None, and the encoder is no longer where it was.
        ArtifactError: it is not an encoder, or not the collection's.
    """
    hint = collection.encoder_path
    if path is None and (hint is None or not Path(hint).is_file()):
        where = f"is no longer at {hint}" if hint else "was not noted"
        raise UsageError(
            f"the encoder of {collection.location} {where}; give it with --encoder FILE"
        )
    encoder = open_encoder(path or Path(str(hint)))
    collection.check_encoder(encoder.digest)
    return encoder


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of what a search looks for, or of what not: image files and keys of items."""

    images: Sequence[Path]
    keys: Sequence[str]


def search_images(
    collection: AnyCollection, paths: Sequence[Path], *, encoder: Path | None, **options: Any
) -> tuple[list[Answer], list[RefusedImage]]:
    """Search with image files; those that cannot be used are refused one by one.

    Args:
        collection: to be searched.
        paths: of the files.
        encoder: the collection's, if it is not where it was last seen.
        options: of `AnyCollection.search`.

    Raises:
        UsageError, ArtifactError: as `encoder_of`.
    """
    embedded, refused = embed_files(collection, paths, encoder)
    hits = collection.search([out.embedding for out in embedded], **options)
    answers = [
        Answer(image.key, neighbors) for image, neighbors in zip(embedded, hits, strict=True)
    ]
    return answers, refused


def search_keys(collection: AnyCollection, keys: Sequence[str], **options: Any) -> list[Answer]:
    """Search with items of the collection; an item does not find itself.

    Raises:
        KeyUnknown: an item is not there.
    """
    return [Answer(key, collection.similar(key, **options)) for key in keys]


def search_together(
    collection: AnyCollection,
    positive: Examples,
    negative: Examples,
    negative_weight: float,
    *,
    encoder: Path | None,
    **options: Any,
) -> tuple[list[Answer], list[RefusedImage]]:
    """Search once for what is like all positive examples and unlike the negative ones.

    If an image is refused, nothing is searched: without it the query would be another one.

    Raises:
        KeyUnknown: an item is not there.
        UsageError: the examples cancel each other out; otherwise as `search_images`.
    """
    embedded, refused = embed_files(collection, [*positive.images, *negative.images], encoder)
    if refused:
        return [], refused
    vectors = [out.embedding for out in embedded]
    count = len(positive.images)
    hits = collection.search_mixed(
        [*positive.keys, *vectors[:count]],
        [*negative.keys, *vectors[count:]],
        negative_weight=negative_weight,
        **options,
    )
    names = [[*side.keys, *map(str, side.images)] for side in (positive, negative)]
    query = " + ".join(names[0]) + "".join(f" - {name}" for name in names[1])
    return [Answer(query, hits)], []


def label_images(
    collection: AnyCollection,
    paths: Sequence[Path],
    *,
    k: int,
    exact: bool,
    encoder: Path | None,
) -> tuple[list[tuple[str, Suggestion]], list[RefusedImage]]:
    """Return for each image file its path and the labels that its neighbors suggest.

    Raises:
        UsageError, ArtifactError: as `encoder_of`.
    """
    embedded, refused = embed_files(collection, paths, encoder)
    suggestions = collection.suggest_labels([out.embedding for out in embedded], k, exact=exact)
    return list(zip([out.key for out in embedded], suggestions, strict=True)), refused


def embed_files(
    collection: AnyCollection, paths: Sequence[Path], encoder: Path | None
) -> tuple[list[EmbeddedImage], list[RefusedImage]]:
    """Embed image files with the collection's encoder, which is not opened if there are none."""
    if not paths:
        return [], []
    opened = encoder_of(collection, encoder)
    items = [path_item(path.absolute(), str(path), None) for path in paths]
    outcomes = [out for batch in embed(opened, in_batches(items, BATCH_SIZE)) for out in batch]
    embedded = [outcome for outcome in outcomes if isinstance(outcome, EmbeddedImage)]
    return embedded, [outcome for outcome in outcomes if isinstance(outcome, RefusedImage)]
