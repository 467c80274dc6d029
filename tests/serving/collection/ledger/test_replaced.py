"""A collection whose folder is replaced while it is open."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.collection import Collection, CollectionReplaced, Record, open_collection


def test_a_replaced_folder_is_refused_and_holds_what_was_put_there(
    collection: Collection, record: Callable[[int], Record], tmp_path: Path
) -> None:
    collection.add([record(1)])
    shutil.copytree(collection.path, tmp_path / "backup")
    collection.add([record(2)])
    collection.path.rename(tmp_path / "before")
    shutil.copytree(tmp_path / "backup", collection.path)
    for refused in (
        lambda: collection.add([record(3)]),
        lambda: collection.search([record(1).vector], 1),
        lambda: collection.get("item-001"),
    ):
        with pytest.raises(CollectionReplaced, match="open it again"):
            refused()
    with open_collection(collection.path) as again:
        assert again.keys() == ["item-001"]
