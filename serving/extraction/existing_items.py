"""The items that a feature folder has, compared with what its source lists now."""

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import IntEnum

from images.items import Item, RefusedImage, metadata_text
from serving.features.reader import Features


class State(IntEnum):
    """What is to be done with an item that the folder has."""

    GONE = 0  # not in the source
    KEEP = 1  # nothing
    RELABEL = 2  # its label or metadata are others
    COMPARE = 3  # its file may have changed
    EMBED = 4  # it was refused or gone, and may be usable now


class Kind(IntEnum):
    """What an item is to the folder."""

    EMBEDDED = 0
    REFUSED = 1  # it was read, but could not be used
    UNREAD = 2  # it could not be read: it may be there now, whatever its stamp says
    DELETED = 3


@dataclass
class ExistingItems:
    """A folder's items, numbered: of each shard the rows, the errors, the deleted.

    Attributes:
        numbers: from key to number.
        starts: the first number of each shard.
        locations: hash of uri and stamp of each.
        labels: hash of label and metadata of each.
        kinds: what each is, a Kind.
        states: what is to be done, a State each.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    locations: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    kinds: bytearray = field(default_factory=bytearray)
    states: bytearray = field(default_factory=bytearray)

    def add(
        self,
        kind: Kind,
        key: str,
        uri: str,
        label: str | None,
        stamp: str | None,
        *,
        metadata: str | None = None,
    ) -> None:
        """Add an item to the last shard; until the source is compared it is GONE."""
        self.numbers[key] = len(self.states)
        self.locations.append(hash((uri, stamp)) if stamp is not None else 0)
        self.labels.append(hash((label, metadata)))
        self.kinds.append(kind)
        self.states.append(State.GONE)

    def shard_of(self, number: int) -> int:
        """Return the index of the shard that an item is in."""
        return bisect_right(self.starts, number) - 1

    def state_of(self, key: str) -> int:
        """Return what is to be done with an item."""
        return self.states[self.numbers[key]]

    def compare(self, number: int, item: Item, stamp: str | None) -> None:
        """Note what is to be done with an item that the source lists, from its uri and stamp."""
        self.states[number] = self._compared(number, item, stamp)

    def _compared(self, number: int, item: Item, stamp: str | None) -> State:
        kind = self.kinds[number]
        same = stamp is not None and self.locations[number] == hash((item.uri, stamp))
        if kind == Kind.EMBEDDED:
            if not same:
                return State.COMPARE
            described = hash((item.label, metadata_text(item.metadata)))
            return State.KEEP if self.labels[number] == described else State.RELABEL
        return State.KEEP if kind == Kind.REFUSED and same else State.EMBED


def read_existing_items(features: Features) -> ExistingItems:
    """Read the items of a folder, without their embeddings."""
    existing = ExistingItems()
    for shard in features.manifest.shards:
        existing.starts.append(len(existing.states))
        table = features.columns(shard, "key", "uri", "label", "stamp", "metadata")
        columns = (
            table[name].to_pylist() if name in table.column_names else [None] * len(table)
            for name in ("key", "uri", "label", "stamp", "metadata")
        )
        for key, uri, label, stamp, metadata in zip(*columns, strict=True):
            existing.add(Kind.EMBEDDED, key, uri, label, stamp, metadata=metadata)
        for entry in features.refused(shard):
            refused = entry.outcome
            assert isinstance(refused, RefusedImage)
            kind = Kind.UNREAD if refused.stage == "read" else Kind.REFUSED
            existing.add(kind, refused.key, refused.uri, None, entry.stamp)
        for deleted in features.deleted(shard):
            existing.add(Kind.DELETED, deleted.key, deleted.uri, None, None)
    return existing
