"""Places: what a URL of Milvus says, and what it must not say."""

from pathlib import Path

import pytest

from base.errors import UsageError
from serving.collection import open_collection
from serving.collection.contract.locations import MilvusLocation, location_of, milvus_location


@pytest.mark.parametrize("text", ["shop", "/data/shop", "milvus", "http/shop", "milvus/shop", "."])
def test_what_is_no_url_is_a_folder(text: str) -> None:
    assert milvus_location(text) is None
    assert location_of(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("milvus://db/shop", ("http://db:19530", "", "shop", {})),
        ("milvus://db:29530/shop_2", ("http://db:29530", "", "shop_2", {})),
        ("milvus://[::1]:1/x", ("http://[::1]:1", "", "x", {})),
        ("milvus+tls://db:443/team/shop", ("https://db:443", "team", "shop", {})),
        (
            "milvus://db/shop?ef=400&nprobe=3",
            ("http://db:19530", "", "shop", {"ef": 400, "nprobe": 3}),
        ),
        ("milvus+file:a b/t#1.db#shop", ("a b/t#1.db", "", "shop", {})),
    ],
)
def test_urls_say_where(text: str, expected: tuple[str, str, str, dict[str, int]]) -> None:
    location = milvus_location(text)
    assert isinstance(location, MilvusLocation)
    assert (location.uri, location.database, location.name, location.search) == expected
    assert location_of(text) == text
    assert (location.file is None) == text.startswith(("milvus:", "milvus+tls:"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("milvus://db", "name is ''"),
        ("milvus://", "not a location"),
        ("milvus:///shop", "not a location"),
        ("milvus://db/a/b/c", "not a location"),
        ("milvus://db/shop#x", "not a location"),
        ("milvus://db:port/shop", "not a location"),
        ("milvus://db/2shop", "no digit first"),
        ("milvus://db/shop-2", "letters, digits"),
        ("milvus://db/shop?ef=many", "ef in"),
        ("milvus+file:shop#name", r"\.db"),
        ("milvus+file:shop.db", r"\.db"),
        ("milvus+file:shop.db#", "name is ''"),
    ],
)
def test_unusable_urls_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        milvus_location(text)


@pytest.mark.parametrize(
    "text",
    [
        "milvus://root:secret@db/shop",
        "milvus://root:se/cret@db:1/shop",
        "milvus://db/shop?token=secret",
        "milvus://db:secret/shop",
    ],
)
def test_secrets_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        milvus_location(text)
    assert "secret" not in str(refused.value)
    assert "cret" not in repr(refused.value.__cause__)


def test_a_path_is_always_a_folder() -> None:
    with pytest.raises(UsageError, match="collections in a folder"):
        open_collection(Path("milvus://db/shop"))
