"""The errors of collections, beyond those every room shares (`base.errors`).

LookalikeError
  CollectionBusy        another process writes to the collection
  CollectionRebuilt     it has been moved to another encoder since it was opened
    CollectionReplaced  its folder is another one than was opened, or gone
  UsageError
    CollectionMissing   there is no collection at a location
    KeyExists           a key to be added is there already
    KeyUnknown          a requested key is not there
"""

from collections import Counter
from collections.abc import Container, Sequence

from base.errors import ArtifactError, LookalikeError, UsageError


class CollectionBusy(LookalikeError):  # noqa: N818 - the state it reports
    """Another process is writing; reading is not affected."""


class CollectionMissing(UsageError):  # noqa: N818 - the state it reports
    """There is no collection at a location.

    Attributes:
        location: the folder or URL.
    """

    def __init__(self, location: object) -> None:
        self.location = location
        super().__init__(
            f"there is no collection at {location}; make one with: "
            f"lookalike collection create {location} --encoder ENCODER"
        )


class CollectionRebuilt(LookalikeError):  # noqa: N818 - the state it reports
    """The collection was moved to another encoder while it was open here."""


class CollectionReplaced(CollectionRebuilt):
    """Another ledger lies where the open one did: what is written here would be lost."""


class KeyExists(UsageError):  # noqa: N818 - the state it reports
    """Keys that are in the collection already, or twice in what is added.

    Attributes:
        keys: the keys, in the order they were given.
    """

    def __init__(self, keys: Sequence[str], message: str | None = None) -> None:
        self.keys = tuple(keys)
        super().__init__(
            message or f"in the collection already: {some(keys)}; {REMEDY}", param="key"
        )


class KeyUnknown(UsageError):  # noqa: N818 - the state it reports
    """A key that is not in the collection.

    Attributes:
        key: the key that was requested.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"no item with the key {key!r} in the collection", param="key")


REMEDY = 'remove them first, or add with on_duplicate="replace" (--on-duplicate replace)'


def check_encoder(location: object, own: str, digest: str) -> None:
    """Refuse another encoder than a collection's own.

    Raises:
        ArtifactError: naming both digests and the remedy.
    """
    if digest != own:
        raise ArtifactError(
            f"the collection {location} was made with the encoder {own[:12]}…, this is "
            f"{digest[:12]}…: their vectors cannot be compared. Use the encoder it was made with, "
            "make a new collection with this one, or bring a folder over: "
            "lookalike collection rebuild … --encoder NEW"
        )


def refuse_duplicates(keys: Sequence[str], there: Container[str]) -> None:
    """Refuse a batch with keys that are there already, or twice in it.

    Raises:
        KeyExists: with the keys.
    """
    last = dict.fromkeys(keys)
    if existing := [key for key in last if key in there]:
        raise KeyExists(existing)
    if len(last) < len(keys):
        counts = Counter(keys)
        twice = [key for key in last if counts[key] > 1]
        raise KeyExists(twice, f"given more than once: {', '.join(map(repr, twice[:5]))}")


def some(keys: Sequence[str], most: int = 5) -> str:
    """Return the first keys in quotes, and how many more there are."""
    named = ", ".join(repr(key) for key in keys[:most])
    return named if len(keys) <= most else f"{named} and {len(keys) - most} more"
