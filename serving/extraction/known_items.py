"""What a feature folder knows of its items, compared with what the source says of them."""

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import IntEnum

from images.items import Item
from serving.embedding.results import RefusedImage
from serving.features.reader import Features


class State(IntEnum):
    """What is to be done with an item that the folder knows."""

    GONE = 0  # not in the source
    KEEP = 1  # nothing
    NOTE = 2  # its label is another one
    COMPARE = 3  # its file may have changed
    EMBED = 4  # it was refused or gone, and may be usable now


class Kind(IntEnum):
    """What an item is to the folder."""

    EMBEDDED = 0
    REFUSED = 1  # it was read, but could not be used
    UNREAD = 2  # it could not be read: it may be there now, whatever its stamp says
    DELETED = 3


@dataclass
class Known:
    """What a folder knows of its items, by number: of each shard the rows, the errors, the deleted.

    Attributes:
        numbers: from key to number.
        starts: the first number of each shard.
        locations: hash of uri and stamp of each.
        labels: hash of the label of each.
        kinds: what each is, a Kind.
        states: what is to be done, a State each.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    locations: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    kinds: bytearray = field(default_factory=bytearray)
    states: bytearray = field(default_factory=bytearray)

    def add(self, kind: Kind, key: str, uri: str, label: str | None, stamp: str | None) -> None:
        """Take one more item in."""
        self.numbers[key] = len(self.states)
        self.locations.append(hash((uri, stamp)) if stamp is not None else 0)
        self.labels.append(hash(label))
        self.kinds.append(kind)
        self.states.append(State.GONE)

    def shard_of(self, number: int) -> int:
        """Which shard an item is in."""
        return bisect_right(self.starts, number) - 1

    def state_of(self, number: int, item: Item, stamp: str | None) -> State:
        """Return what is to be done with an item that is there."""
        kind = self.kinds[number]
        same = stamp is not None and self.locations[number] == hash((item.uri, stamp))
        if kind == Kind.EMBEDDED:
            if not same:
                return State.COMPARE
            return State.KEEP if self.labels[number] == hash(item.label) else State.NOTE
        return State.KEEP if kind == Kind.REFUSED and same else State.EMBED


def known_items(features: Features) -> Known:
    """Read what a folder knows, without its embeddings."""
    known = Known()
    for shard in features.manifest.shards:
        known.starts.append(len(known.states))
        table = features.columns(shard, "key", "uri", "label", "stamp")
        stamps = (
            table["stamp"].to_pylist() if "stamp" in table.column_names else [None] * len(table)
        )
        columns = (table["key"].to_pylist(), table["uri"].to_pylist(), table["label"].to_pylist())
        for key, uri, label, stamp in zip(*columns, stamps, strict=True):
            known.add(Kind.EMBEDDED, key, uri, label, stamp)
        for entry in features.refused(shard):
            refused = entry.outcome
            assert isinstance(refused, RefusedImage)
            kind = Kind.UNREAD if refused.stage == "read" else Kind.REFUSED
            known.add(kind, refused.key, refused.uri, None, entry.stamp)
        for gone in features.deleted(shard):
            known.add(Kind.DELETED, gone.key, gone.uri, None, None)
    return known
