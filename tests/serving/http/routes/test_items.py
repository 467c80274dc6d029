"""/items: pages, samples, single items, adding, deleting; odd keys."""

import base64
import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.serving.http.conftest import Running, png

Encode = Callable[[bytes], NDArray[np.float32]]
ODD_KEYS = (
    "folder/deep/name.jpg",
    "a b+c.jpg",
    "50%.jpg",
    "%2F",
    "größe/日本語/🦊.png",
    "?x=1&y#z",
    "similar",
    "a/similar",
    "a/thumbnail",
    "../../etc/passwd",
    "./here",
    "/leading",
    "trailing/",
    "double//slash",
    'quote"s and \\ back',
    "new\nline",
)


def path_of(key: str, *, whole: bool = True) -> str:
    return "/items/" + quote(key, safe="" if whole else "/")


def count(service: Running) -> int:
    number: int = service.client.get("/items?limit=1").json()["count"]
    return number


# Reading


def test_pages_show_each_item_once(service: Running, images: dict[str, bytes]) -> None:
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = service.client.get("/items", params={"limit": 7, "after": after}).json()
        assert page["count"] == len(images)
        seen += [item["key"] for item in page["items"]]
        after = page["next"]
    assert seen == sorted(images)


def test_a_sample_is_random_items(service: Running, images: dict[str, bytes]) -> None:
    samples = [
        [item["key"] for item in service.client.get("/items?sample=8").json()["items"]]
        for _ in range(6)
    ]
    assert all(len(set(sample)) == 8 and set(sample) <= set(images) for sample in samples)
    assert len({tuple(sample) for sample in samples}) > 1
    every = service.client.get("/items?sample=100").json()
    assert (every["count"], len(every["items"])) == (len(images), len(images))


def test_one_item(service: Running, images: dict[str, bytes], encode: Encode) -> None:
    key = "squares/03.png"
    item = service.client.get(path_of(key)).json()
    assert (item["key"], item["label"]) == (key, "squares")
    assert "vector" not in item
    vector = service.client.get(path_of(key) + "?vector=true").json()["vector"]
    np.testing.assert_allclose(vector, encode(images[key]), atol=1e-6)
    assert service.client.get(path_of(key, whole=False)).json() == item


def test_similar_is_search_by_key(service: Running) -> None:
    key = "stripes/05.png"
    similar = service.client.get(path_of(key) + "/similar?k=6&min_score=0.1")
    searched = service.client.post("/search", json={"key": key, "k": 6, "min_score": 0.1})
    assert similar.json() == searched.json()
    assert len(similar.json()["neighbours"]) == 6
    assert "search;dur=" in similar.headers["server-timing"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/items?limit=0", (422, "invalid-parameter", "limit")),
        ("/items?limit=1001", (422, "invalid-parameter", "limit")),
        ("/items?limit=x", (422, "invalid-parameter", "limit")),
        ("/items?sample=0", (422, "invalid-parameter", "sample")),
        ("/items?sample=101", (422, "invalid-parameter", "sample")),
        ("/items?page=2", (422, "unknown-parameter", "page")),
        ("/items?limit=1&limit=2", (422, "invalid-parameter", "limit")),
        ("/items/none", (404, "unknown-key", "key")),
        ("/items/none/similar", (404, "unknown-key", "key")),
        ("/items/none/thumbnail", (404, "unknown-key", "key")),
        ("/items/", (404, "unknown-key", "key")),
        ("/items/%ff", (400, "malformed-key", "key")),
        ("/items/squares%2F03.png?vector=maybe", (422, "invalid-parameter", "vector")),
        ("/items/squares%2F03.png?size=3", (422, "unknown-parameter", "size")),
        ("/items/squares%2F03.png/similar?k=0", (422, "invalid-parameter", "k")),
        ("/items/squares%2F03.png/thumbnail?size=0", (422, "invalid-parameter", "size")),
    ],
)
def test_refused_reads(service: Running, path: str, expected: tuple[int, str, str]) -> None:
    assert service.error(service.client.get(path)) == expected


# Adding


@pytest.mark.parametrize("form", ["multipart", "raw", "json", "vector"])
def test_add_search_delete(
    fresh: Running, images: dict[str, bytes], encode: Encode, form: str
) -> None:
    content = png(np.random.default_rng(5).integers(0, 256, (40, 60, 3), np.uint8))
    key = "new/picture one.png"
    fields: dict[str, Any] = {"key": key, "label": "noise"}
    if form == "multipart":
        data = {**fields, "metadata": '{"price": 5}'}
        answer = fresh.client.post("/items", files={"image": content}, data=data)
    elif form == "raw":
        answer = fresh.client.post(
            "/items",
            params={**fields, "metadata": '{"price": 5}'},
            content=content,
            headers={"Content-Type": "image/png"},
        )
    else:
        payload = (
            {"vector": encode(content).tolist()}
            if form == "vector"
            else {"image": base64.b64encode(content).decode()}
        )
        row = {**fields, **payload, "metadata": {"price": 5}}
        answer = fresh.client.post("/items", json={"items": [row]})
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"added": 1, "replaced": 0, "unchanged": 0, "keys": [key]}

    item = fresh.client.get(path_of(key)).json()
    assert (item["label"], item["metadata"], item["uri"]) == ("noise", {"price": 5}, None)
    if form != "vector":
        assert (item["width"], item["height"]) == (60, 40)
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
        thumbnail = fresh.client.get(item["thumbnail"])
        with Image.open(io.BytesIO(thumbnail.content)) as image:
            assert image.size == (60, 40)
    else:
        assert fresh.client.get(item["thumbnail"]).status_code == 404

    first = fresh.client.post("/search", files={"image": content}).json()["neighbours"][0]
    assert first["key"] == key
    assert first["score"] == pytest.approx(1, abs=1e-5)

    kept = list((Path(fresh.runtime.collection.current.location) / "thumbnails").rglob("*.webp"))
    assert len(kept) == (form != "vector")
    deleted = fresh.client.delete(path_of(key))
    assert (deleted.status_code, deleted.json()) == (200, {"removed": [key]})
    assert fresh.error(fresh.client.delete(path_of(key))) == (404, "unknown-key", "key")
    assert not any(path.exists() for path in kept)
    again = fresh.client.post("/search", files={"image": content}).json()["neighbours"]
    assert key not in [one["key"] for one in again]


def test_several_images_take_their_file_names(fresh: Running, images: dict[str, bytes]) -> None:
    files = [("image", (f"n/{number}.jpg", images["discs/00.jpg"])) for number in range(3)]
    answer = fresh.client.post("/items", files=files, data={"label": "three"})
    assert answer.json()["keys"] == ["n/0.jpg", "n/1.jpg", "n/2.jpg"]
    assert fresh.client.get("/items/n/1.jpg").json()["label"] == "three"


def test_a_key_that_exists(fresh: Running, images: dict[str, bytes]) -> None:
    first, second = images["discs/00.jpg"], images["stripes/01.png"]
    before = count(fresh)

    def post(content: bytes, **fields: str) -> httpx.Response:
        return fresh.client.post("/items", files={"image": content}, data={"key": "k", **fields})

    assert post(first).status_code == 201
    assert fresh.error(post(second)) == (409, "key-exists", "key")
    assert fresh.error(post(second, on_duplicate="refuse")) == (409, "key-exists", "key")
    replaced = post(second, on_duplicate="replace")
    assert (replaced.status_code, replaced.json()["replaced"]) == (200, 1)
    assert fresh.client.get("/items/k").json()["sha256"] == hashlib.sha256(second).hexdigest()
    kept = list((Path(fresh.runtime.collection.current.location) / "thumbnails").rglob("*.webp"))
    assert len(kept) == 1, "the picture of what was replaced is gone"
    assert post(second, on_duplicate="replace").json()["unchanged"] == 1
    assert fresh.error(post(first, on_duplicate="maybe")) == (
        *(422, "invalid-parameter"),
        "on_duplicate",
    )
    assert count(fresh) == before + 1


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys(service: Running, images: dict[str, bytes], key: str) -> None:
    row = {"key": key, "image": base64.b64encode(images["ramps/00.jpg"]).decode()}
    assert service.client.post("/items", json={"items": [row]}).status_code == 201
    try:
        item = service.client.get(path_of(key))
        assert item.json()["key"] == key
        similar = service.client.get(path_of(key) + "/similar?k=1")
        assert [one["key"] for one in similar.json()["neighbours"]] == ["ramps/00.jpg"]
        assert service.client.get(item.json()["thumbnail"]).status_code == 200
    finally:
        assert service.client.delete(path_of(key)).json() == {"removed": [key]}


ITEM = {"key": "z", "vector": [1.0] * 24}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "missing-image", "image")),
        ({"items": []}, (422, "invalid-parameter", "items")),
        ({"items": "x"}, (422, "invalid-parameter", "items")),
        ({"items": ["x"]}, (422, "invalid-parameter", "items[0]")),
        ({"items": [{}]}, (422, "missing-image", "items[0].image")),
        ({"items": [{"key": "z"}]}, (422, "missing-image", "items[0].image")),
        ({"items": [{"vector": [1.0] * 24}]}, (422, "invalid-parameter", "items[0].key")),
        ({"items": [{**ITEM, "image": "aGk="}]}, (422, "missing-image", "items[0].image")),
        ({"items": [ITEM, {**ITEM, "key": "y" * 1025}]}, (422, "invalid-parameter", "key")),
        ({"items": [ITEM, ITEM]}, (409, "key-exists", "key")),
        ({"items": [{**ITEM, "vector": [1.0]}]}, (422, "invalid-parameter", "items[0].vector")),
        ({"items": [{**ITEM, "label": 5}]}, (422, "invalid-parameter", "items[0].label")),
        ({"items": [{**ITEM, "metadata": []}]}, (422, "invalid-parameter", "items[0].metadata")),
        ({"items": [{**ITEM, "uri": "/etc/passwd"}]}, (422, "invalid-parameter", "items[0].uri")),
        ({"items": [{**ITEM, "uri": "file:///x"}]}, (422, "invalid-parameter", "items[0].uri")),
        ({"items": [{**ITEM, "uri": "idx:///x#1"}]}, (422, "invalid-parameter", "items[0].uri")),
        ({"items": [{**ITEM, "lable": "x"}]}, (422, "unknown-parameter", "items[0].lable")),
        ({"items": [{"key": "z", "image": 5}]}, (422, "invalid-parameter", "items[0].image")),
        ({"items": [{"key": "z", "image": "aGk="}]}, (422, "not-an-image", "items[0].image")),
        ({"items": [ITEM] * 65}, (413, "too-many-items", "items")),
        ({"items": [ITEM], "image": "aGk="}, (422, "invalid-parameter", "items")),
        ({"items": [ITEM], "label": "x"}, (422, "unknown-parameter", "label")),
    ],
)  # fmt: skip
def test_refused_additions_add_nothing(
    service: Running, body: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    before = count(service)
    answer = service.client.post("/items", json=body)
    assert service.error(answer) == expected
    assert count(service) == before


def test_one_bad_image_of_a_form_adds_nothing(service: Running, images: dict[str, bytes]) -> None:
    before = count(service)
    files = [("image", ("good", images["discs/00.jpg"])), ("image", ("bad", b"no picture"))]
    answer = service.client.post("/items", files=files)
    assert service.error(answer) == (422, "not-an-image", "images[1]")
    assert [one["index"] for one in answer.json()["errors"]] == [1]
    keyed = service.client.post("/items", files=files, data={"key": "one"})
    assert service.error(keyed) == (422, "invalid-parameter", "key")
    assert count(service) == before


def test_an_image_without_a_name_needs_a_key(service: Running, images: dict[str, bytes]) -> None:
    headers = {"Content-Type": "image/jpeg"}
    answer = service.client.post("/items", content=images["discs/00.jpg"], headers=headers)
    assert service.error(answer) == (422, "invalid-parameter", "key")


def test_what_another_process_changes_is_found_without_a_restart(
    fresh: Running, images: dict[str, bytes]
) -> None:
    image = images["discs/00.jpg"]
    program = """
import sys
from serving.collection import Record, open_collection
with open_collection(sys.argv[1]) as collection:
    vector = collection.get("discs/00.jpg").vector
    collection.add([Record("theirs", vector, "/theirs")])
    collection.remove(["discs/00.jpg"])
"""

    def nearest() -> list[str]:
        answer = fresh.client.post("/search", files={"image": image}, data={"k": 1})
        return [neighbor["key"] for neighbor in answer.json()["neighbours"]]

    assert nearest() == ["discs/00.jpg"]
    folder = str(fresh.runtime.collection.current.location)
    command = [sys.executable, "-W", "ignore", "-c", program, folder]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[4])
    assert nearest() == ["theirs"]
    assert fresh.client.get("/items/theirs").status_code == 200
    assert fresh.client.get("/items/discs%2F00.jpg").status_code == 404
