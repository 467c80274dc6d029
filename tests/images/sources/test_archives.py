"""tar and zip archives: the same images as a folder, and what damage does to them."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base.errors import ImageRefused, RefusalReason, SourceError
from images.items import Source
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import (
    FILES,
    FORMS,
    NAMES,
    make_folder,
    make_tar,
    make_zip,
    png,
)


def facts(source: Source) -> list[tuple[str, str | None, object]]:
    return [(item.key, item.label, item.read()) for item in source]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same(tmp_path: Path, form: str) -> None:
    source = open_source(FORMS[form](tmp_path))
    labels = ["hat", "hat", "shoe", "shoe"]
    assert facts(source) == list(zip(NAMES, labels, FILES.values(), strict=True))
    assert (len(source), source.classes) == (4, ("hat", "shoe"))
    for item in source:
        assert read_uri(item.uri) == pickle.loads(pickle.dumps(item)).read() == item.read()


def test_a_uri_says_where(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a b.tar", {"Größe #1/x.png": png(0)})
    (item,) = open_source(path)
    quoted = str(tmp_path / "a%20b.tar")
    assert item.uri == f"tar://{quoted}#Gr%C3%B6%C3%9Fe%20%231/x.png@0"


def test_one_folder_around_everything_is_no_label(tmp_path: Path) -> None:
    around = {f"photos/{name}": data for name, data in FILES.items()}
    source = open_source(make_tar(tmp_path / "a.tar", around))
    assert [item.key for item in source] == list(around)
    assert source.classes == ("hat", "shoe")
    flat = open_source(make_zip(tmp_path / "a.zip", {"hat/1.png": png(0), "hat/2.png": png(1)}))
    assert flat.classes == ("hat",)


def test_what_is_no_image_or_hidden_is_passed_over(tmp_path: Path) -> None:
    others = {"._1.png": b"", "__MACOSX/1.png": b"", ".git/1.png": b"", "notes.md": b"", "a/": b""}
    source = open_source(make_zip(tmp_path / "a.zip", {**others, "./1.png": png(0)}))
    assert [item.key for item in source] == ["1.png"]
    folder = make_folder(tmp_path / "photos", {"__MACOSX/1.png": png(0), "2.png": png(1)})
    assert [item.key for item in open_source(folder)] == ["2.png"]


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_hostile_names_are_only_keys(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    (tmp_path / "in").mkdir()
    hostile = {"../x.png": png(0), "/etc/y.png": png(1), "a/../../z.png": png(2)}
    before = sorted(tmp_path.rglob("*"))
    path = make(tmp_path / "in" / "a", hostile)
    source = open_source(path)
    assert [item.key for item in source] == list(hostile)
    assert [read_uri(item.uri) for item in source] == list(hostile.values())
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_a_name_that_comes_again_gets_a_key_of_its_own(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"1.png": png(0)})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("./1.png")
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
    source = open_source(path)
    assert [item.key for item in source] == ["1.png", "1.png@1024"]
    assert [read_uri(item.uri) for item in source] == [png(0), png(1)]


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip, deflated", "zip, stored"])
def test_a_cut_archive_is_told_at_once(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path)
    data = path.read_bytes()
    content = len(data.rstrip(b"\0"))  # a tar ends with zeros
    for keep in (content * 9 // 10, content // 2, 30):
        path.write_bytes(data[:keep])
        os.utime(path, ns=(keep, keep))
        with pytest.raises(SourceError, match=path.name) as caught:
            open_source(path)
        assert "\n" not in str(caught.value)


def test_an_archive_that_changed_under_a_uri(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", FILES)
    uris = [item.uri for item in open_source(path)]
    make_tar(path, dict(reversed(FILES.items())))
    for uri in (*uris[:2], f"tar://{path}#1.png@7", f"tar://{path}#1.png", f"tar://{path}#@99999"):
        with pytest.raises(ImageRefused) as caught:
            read_uri(uri)
        assert caught.value.reason == RefusalReason.UNREADABLE


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_an_archive_without_images(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    with pytest.raises(SourceError, match=r"holds no image files \("):
        open_source(make(tmp_path / "a", {"notes.txt": b"hello"}))


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=20)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NAME.map(lambda name: f"x{name}.png"), min_size=1, max_size=5, unique=True))
def test_any_names_come_back_through_their_uris(tmp_path: Path, names: list[str]) -> None:
    files = {name: png(number) for number, name in enumerate(names)}
    for path in (make_tar(tmp_path / "a", files), make_zip(tmp_path / "b", files)):
        items = list(open_source(path))
        assert len({item.key for item in items}) == len(items) == len(files)
        assert [read_uri(item.uri) for item in items] == list(files.values())
        for item in items:
            (item.key + item.uri).encode()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([make_tar, make_zip]),
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), max_size=5),
    st.none() | st.integers(1, 100_000),
)
def test_damage_raises_nothing_else_and_loses_nothing_silently(
    tmp_path: Path,
    make: Callable[[Path, dict[str, bytes]], Path],
    flips: list[tuple[int, int]],
    cut: int | None,
) -> None:
    path = make(tmp_path / "a", FILES)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data[:cut])
    try:
        source = open_source(path)
    except SourceError:
        return
    if make is make_zip and not flips:
        assert cut is None or cut >= len(data)
    for item in source:
        with suppress(ImageRefused):
            item.read()
