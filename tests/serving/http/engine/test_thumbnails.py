"""Thumbnails of items, and that no key, link or path leads to another file."""

import base64
import io
import socket
from pathlib import Path

import httpx
import pytest
from PIL import Image

from serving.collection import open_collection
from tests.serving.http.conftest import Running


def test_a_thumbnail_is_a_small_image(service: Running) -> None:
    answer = service.client.get("/items/discs%2F00.jpg/thumbnail?size=96")
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert max(image.size) <= 96
    again = service.client.get(
        "/items/discs%2F00.jpg/thumbnail?size=96",
        headers={"If-None-Match": answer.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_thumbnail_whose_file_is_gone(fresh: Running, tmp_path: Path) -> None:
    from serving.collection import Record

    lost = tmp_path / "lost.png"
    fresh.runtime.collection.current.add([Record(key="lost", vector=[1.0] * 24, uri=str(lost))])
    answer = fresh.client.get("/items/lost/thumbnail")
    assert fresh.error(answer) == (404, "no-thumbnail", "key")
    assert str(lost) not in answer.text


def test_thumbnails_are_remembered_up_to_a_limit(
    fresh: Running, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["red", "green", "blue"]
    for key in keys:
        files = {"image": images["discs/00.jpg"]}
        assert fresh.client.post("/items", files=files, data={"key": key}).status_code == 201
    first = fresh.client.get("/items/red/thumbnail").content
    monkeypatch.setattr("serving.http.engine.thumbnails.REMEMBERED", 2 * len(first))
    for key in keys[1:]:
        assert fresh.client.get(f"/items/{key}/thumbnail").content == first
    for kept in (Path(fresh.runtime.collection.current.location) / "thumbnails").rglob("*.webp"):
        kept.unlink()
    statuses = [fresh.client.get(f"/items/{key}/thumbnail").status_code for key in keys]
    assert statuses == [404, 200, 200]


def test_a_backup_has_the_thumbnails_that_are_kept(
    fresh: Running, images: dict[str, bytes], tmp_path: Path
) -> None:
    files = {"image": images["discs/00.jpg"]}
    assert fresh.client.post("/items", files=files, data={"key": "sent"}).status_code == 201
    location = Path(fresh.runtime.collection.current.location)
    with open_collection(location, load_index=False) as collection:
        collection.back_up(tmp_path / "backup")
    (kept,) = (location / "thumbnails").rglob("*.webp")
    (copy,) = (tmp_path / "backup/thumbnails").rglob("*.webp")
    assert copy.relative_to(tmp_path / "backup") == kept.relative_to(location)
    assert copy.read_bytes() == kept.read_bytes()


# No way out


def test_a_link_is_shown_and_never_opened(
    fresh: Running, images: dict[str, bytes], image_folder: Path
) -> None:
    link = "https://shop.example/item/5"
    data = {"key": "linked", "uri": link}
    files = {"image": images["discs/00.jpg"]}
    assert fresh.client.post("/items", files=files, data=data).status_code == 201
    item = fresh.client.get("/items/linked").json()
    assert item["uri"] == link
    assert fresh.client.get(item["thumbnail"]).status_code == 200  # the image that was sent


@pytest.mark.parametrize(
    "path",
    [
        "/items/..%2f..%2f..%2fetc%2fpasswd/thumbnail",
        "/items/%2Fetc%2Fpasswd/thumbnail",
        "/items/thumbnails%2Fab/thumbnail",
        "/items/....//....//etc/passwd/thumbnail",
        "/items/file:%2F%2F%2Fetc%2Fpasswd/thumbnail",
        "/web/..%2f..%2fsettings.py",
        "/web/%2e%2e%2fservice.py",
        "/web/../service.py",
        "/web/page.js%00",
    ],
)
def test_no_path_leads_out(service: Running, path: str) -> None:
    # httpx would tidy the path up before sending it: sent by hand
    host, port = httpx.URL(service.url).host, httpx.URL(service.url).port or 80
    with socket.create_connection((host, port), timeout=10) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 404 " in answer.split(b"\r\n", 1)[0], answer[:300]
    assert b"root:" not in answer


def test_kept_thumbnails_have_names_made_of_digits(
    fresh: Running, images: dict[str, bytes]
) -> None:
    row = {"key": "../../../up", "image": base64.b64encode(images["discs/00.jpg"]).decode()}
    assert fresh.client.post("/items", json={"items": [row]}).status_code == 201
    folder = Path(fresh.runtime.collection.current.location) / "thumbnails"
    (kept,) = [path for path in folder.rglob("*") if path.is_file()]
    name = kept.relative_to(folder).as_posix()
    assert set(name.removesuffix(".webp")) <= set("0123456789abcdef/")
