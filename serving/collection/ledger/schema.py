"""The tables of `ledger.db` and the steps from each schema version to the next.

The ledger is one SQLite database. `application_id` says that it is ours, `user_version` is the
number of steps of `MIGRATIONS` it has gone through. A new step is appended, an old one never
changed; opening an older ledger for the first time runs the missing ones in one transaction.

collection   one row: the encoder (SHA-256 of its file, dimension, and where the file was last seen)
             and `sequence`, the number of the last change; `recall`, what searches promise;
             `generation`, another random identifier for each backup and each rebuild with another
             encoder, so that numbers are never mistaken for those of another ledger ("" in a
             ledger that came from version 2); `pruned`, the last removal that was forgotten;
             `memory_bytes`, `latency_ms` and `index_kind`: the rest of what is promised
             (`promise`), null where there is no limit;
             `dtype`, how vectors are stored.
items        one row per item. `sequence` is the change that added it; replacing an item gives it
             a new one. So an item's content never changes under its number.
vectors      little-endian, length one (`stored_vectors`), separate from `items` so that reading
             keys, labels or metadata does not read them. `crc32` of the bytes, because SQLite
             does not notice a flipped bit.
removals     one row per removal: its own change number and the item's. A process that has the items
             up to change n reads everything after n and is up to date. Only the newest are kept;
             a process that is behind `pruned` compares its items with the existing ones.
fields       the metadata once more, indexed by value (`filters`): one row for each field of
             each item and each element of a list. `kind` tells 1, "1" and true apart.
rebuilding   one row while the collection is moved to another encoder: that encoder.
rebuilt      its vectors so far, by the item's number, and size and digest of their images.

The function `crc32` is not SQLite's own; `connection` defines it on each connection.
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

_VERSION_2 = """
ALTER TABLE collection ADD COLUMN recall REAL NOT NULL DEFAULT 1 CHECK (recall > 0 AND recall <= 1);
CREATE TABLE fields (
    name  TEXT NOT NULL,
    kind  INTEGER NOT NULL,
    value ANY NOT NULL,
    item  INTEGER NOT NULL,
    PRIMARY KEY (name, kind, value, item)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO fields
WITH found (item, name, type, value) AS (
    SELECT items.sequence, field.key, field.type, field.value
    FROM items, json_each(items.metadata) AS field
    UNION ALL
    SELECT items.sequence, field.key, element.type, element.value
    FROM items, json_each(items.metadata) AS field, json_each(field.value) AS element
    WHERE field.type = 'array'
)
SELECT
    name,
    CASE WHEN type IN ('integer', 'real') THEN 0 WHEN type = 'text' THEN 1
         WHEN type IN ('true', 'false') THEN 2 ELSE 3 END,
    CASE WHEN type IN ('array', 'object') THEN 0 ELSE value END,
    item
FROM found
WHERE type <> 'null';
"""

_VERSION_3 = """
ALTER TABLE collection ADD COLUMN generation TEXT NOT NULL DEFAULT '';
ALTER TABLE collection ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vectors ADD COLUMN crc32 INTEGER NOT NULL DEFAULT 0;
UPDATE vectors SET crc32 = crc32(vector);
CREATE TABLE rebuilding (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    encoder_sha256 TEXT NOT NULL,
    dim            INTEGER NOT NULL CHECK (dim > 0),
    encoder_path   TEXT
) STRICT;
CREATE TABLE rebuilt (
    sequence INTEGER PRIMARY KEY,
    vector   BLOB NOT NULL,
    crc32    INTEGER NOT NULL,
    width    INTEGER,
    height   INTEGER,
    sha256   TEXT
) STRICT;
"""

_VERSION_4 = """
ALTER TABLE collection ADD COLUMN memory_bytes INTEGER CHECK (memory_bytes > 0);
ALTER TABLE collection ADD COLUMN latency_ms REAL CHECK (latency_ms > 0);
ALTER TABLE collection ADD COLUMN index_kind TEXT NOT NULL DEFAULT 'auto';
"""

_VERSION_5 = """
ALTER TABLE collection ADD COLUMN dtype TEXT NOT NULL DEFAULT 'float32'
    CHECK (dtype IN ('float32', 'float16'));
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)
SCHEMA_VERSION = len(MIGRATIONS)
