"""Opening a ledger of an older schema version: the missing steps are run, all or none."""

import sqlite3
from pathlib import Path

from base.errors import ArtifactError
from serving.collection.ledger.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Bring an older ledger up to this version.

    Raises:
        ArtifactError: it is not a ledger, or of a newer version.
    """
    folder = path.parent
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ArtifactError(
            f"{folder} is not a collection: {path.name} is a database of another program"
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{folder} has schema version {version}, this program knows {SCHEMA_VERSION}: "
            "it was written by a newer Lookalike; update this one"
        )
    if version < SCHEMA_VERSION:
        migrate(connection, version)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Run the steps that a ledger of this version lacks, all or none."""
    steps = "".join(MIGRATIONS[version:])
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
