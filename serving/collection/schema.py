"""The tables of ``ledger.db`` and the steps from each schema version to the next.

The ledger is one SQLite database. ``application_id`` says that it is ours, ``user_version`` is the
number of steps of ``MIGRATIONS`` it has gone through. A new step is appended, an old one never
changed; opening an older ledger for the first time runs the missing ones in one transaction.

collection   one row: the encoder (SHA-256 of its file, dimension, and where the file was last seen)
             and ``sequence``, the number of the last change.
items        one row an item. ``sequence`` is the change that added it; replacing an item gives it
             a new one. So an item's content never changes under its number.
vectors      float32 little-endian, length one, apart from ``items`` so that a look at keys, labels
             or metadata does not read them.
removals     one row a removal: its own change number and the item's. A process that has the items
             up to change n reads everything after n and is up to date.
"""

APPLICATION_ID = 0x4C4B4C44  # "LKLD"

_VERSION_1 = """
CREATE TABLE collection (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    encoder_sha256 TEXT NOT NULL,
    dim            INTEGER NOT NULL CHECK (dim > 0),
    encoder_path   TEXT,
    created        TEXT NOT NULL,
    sequence       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE items (
    sequence INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    uri      TEXT NOT NULL,
    label    TEXT,
    width    INTEGER,
    height   INTEGER,
    sha256   TEXT,
    metadata TEXT NOT NULL
) STRICT;
CREATE INDEX items_by_label ON items (label);
CREATE TABLE vectors (
    sequence INTEGER PRIMARY KEY,
    vector   BLOB NOT NULL
) STRICT;
CREATE TABLE removals (
    sequence INTEGER PRIMARY KEY,
    item     INTEGER NOT NULL
) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
SCHEMA_VERSION = len(MIGRATIONS)
