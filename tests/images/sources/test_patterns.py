"""Patterns: several files as one source."""

from pathlib import Path

import pytest

from base.errors import SourceError
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import make_tar, make_zip, png


def test_several_shards_are_one_source(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in (9, 10, 11):
        make_tar(tmp_path / "train" / f"s-{number:03}.tar", {"a/1.png": png(number)})
    keys = [f"s-{number:03}.tar/a/1.png" for number in (9, 10, 11)]
    for pattern in ("s-{009..011}.tar", "s-*.tar", "s-0{09,1?}.tar"):
        source = open_source(f"{tmp_path}/train/{pattern}")
        assert [item.key for item in source] == keys
        assert [read_uri(item.uri) for item in source] == [png(9), png(10), png(11)]
        assert (len(source), source.classes) == (3, ("a",))
    make_zip(tmp_path / "b.zip", {"1.png": png(0)})
    mixed = open_source(f"{tmp_path}/{{b.zip,train/s-009.tar}}")
    assert [item.key for item in mixed] == ["b.zip/1.png", "train/s-009.tar/a/1.png"]
    for pattern, message in (
        ("s-{008..009}.tar", "s-008.tar does not exist"),
        ("t-*.tar", "fits no file; quote the pattern"),
        ("{.,s-009.tar}", "is a folder; a pattern must mean files"),
        ("{0..99999999}", "more than 100,000 files"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(f"{tmp_path}/train/{pattern}")
