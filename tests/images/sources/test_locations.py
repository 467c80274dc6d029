"""URLs, with fsspec's memory and local file systems."""

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason, SourceError
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import FILES, NAMES, make_folder, make_tar, make_zip


@pytest.fixture(params=["memory", "local"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A URL of a folder that holds the same images in all forms."""
    here = tmp_path / "here"
    make_folder(here / "photos", {**FILES, ".hidden/9.png": b"", "notes.txt": b""})
    make_tar(here / "a b.tar", FILES)
    make_tar(here / "a.tar.gz", FILES, "w:gz")
    make_zip(here / "a.zip", FILES)
    pq.write_table(
        pa.table({"image": list(FILES.values()), "key": list(FILES)}), here / "a.parquet"
    )
    (here / "list.txt").write_text("".join(f"photos/{name}\n" for name in NAMES))
    if request.param == "local":
        yield f"local://{here}"
        return
    url = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(str(here) + "/", url + "/", recursive=True)
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.mark.parametrize(
    "form", ["photos", "photos/", "a b.tar", "a.tar.gz", "a.zip", "a.parquet", "list.txt"]
)
def test_every_form_behind_a_url(base: str, form: str) -> None:
    source = open_source(f"{base}/{form}")
    prefix = "photos/" if form == "list.txt" else ""
    assert [item.key for item in source] == [prefix + name for name in NAMES]
    for item, data in zip(source, FILES.values(), strict=True):
        assert item.read() == read_uri(item.uri) == data
    if form != "list.txt":
        assert source.classes == (() if "parquet" in form else ("hat", "shoe"))


def test_patterns_behind_a_url(base: str) -> None:
    for pattern in ("a.{tar.gz,zip}", "a.[tz]*"):
        source = open_source(f"{base}/{pattern}")
        assert [item.key for item in source][::4] == ["a.tar.gz/hat/1.png", "a.zip/hat/1.png"]
        assert [read_uri(item.uri) for item in source] == [*FILES.values()] * 2


def test_what_is_not_there(base: str) -> None:
    with pytest.raises(SourceError, match="gone does not exist"):
        open_source(f"{base}/gone")
    with pytest.raises(SourceError, match="fits no file"):
        open_source(f"{base}/*.gone")
    for uri in (f"{base}/gone.png", f"tar+{base}/gone.tar#1.png@0", f"tar+{base}/a.zip#x.png@0"):
        with pytest.raises(ImageRefused) as caught:
            read_uri(uri)
        assert caught.value.reason == RefusalReason.UNREADABLE


def test_file_urls_need_no_package(tmp_path: Path) -> None:
    make_folder(tmp_path / "my photos", FILES)
    source = open_source(f"file://{tmp_path}/my%20photos")
    assert next(iter(source)).uri == f"{tmp_path}/my photos/hat/1.png"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://bucket/a.tar", "cannot open nosuch://bucket/a.tar"),
        ("http://127.0.0.1:9/a.tar", "http URLs are not read; fetch the file first"),
        ("simplecache::https://127.0.0.1:9/a", "https URLs are not read"),
        ("tar:///photos/a.tar#1.png@0", "is one image of a source; give the archive"),
    ],
)
def test_urls_that_are_not_taken(url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(url)
    if "http" in url:
        with pytest.raises(ImageRefused, match="cannot read"):
            read_uri(url)


def test_lists_may_hold_urls(base: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{base}/photos/hat/1.png\thut\n")
    (item,) = open_source(tmp_path / "list.txt")
    assert (item.key, item.label) == (f"{base}/photos/hat/1.png", "hut")
    assert item.read() == FILES["hat/1.png"]


def test_images_look_the_same_from_everywhere(base: str) -> None:
    def pixels(form: str) -> list[np.ndarray]:
        contents = [item.read() for item in open_source(f"{base}/{form}")]
        return [np.asarray(Image.open(io.BytesIO(bytes(content)))) for content in contents]

    expected = pixels("photos")
    for form in ("a b.tar", "a.zip", "a.parquet"):
        for one, other in zip(pixels(form), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_fsspec_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["fsspec"] = None
from base.errors import SourceError
from images.sources.sources import open_source
try:
    open_source("s3://bucket/a.tar")
except SourceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs fsspec: pip install fsspec (for s3:// also s3fs" in done.stdout
