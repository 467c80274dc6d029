"""The commands and the service with a collection in Milvus, from an empty database to a search."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from base.errors import UsageError
from serving.http.policy.settings import Settings
from tests.serving.cli.commands import answer, refusal, run
from tests.serving.http.conftest import started

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")


def test_a_collection_in_milvus_from_the_command_line(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    shop = f"milvus+file:{tmp_path / 'trial.db'}#shop"
    made = answer("collection", "create", shop, "--encoder", tiny_encoder)
    assert (made["path"], made["items"]) == (shop, 0)
    assert "is there already" in str(
        refusal("collection", "create", shop, "--encoder", tiny_encoder)
    )
    added = answer("collection", "add", shop, image_folder)
    assert (added["added"], added["items"]) == (40, 40)
    image = image_folder / "squares/00.jpg"
    by_image = answer("search", shop, image, "-k", 3)["queries"][0]["neighbours"]
    assert by_image[0]["key"] == "squares/00.jpg"
    by_key = answer("search", shop, "--key", "squares/00.jpg", "-k", 2, "--exact")
    assert [hit["key"] for hit in by_key["queries"][0]["neighbours"]] == [
        hit["key"] for hit in by_image[1:]
    ]
    removed = answer("collection", "remove", shop, "discs/00.jpg", "none", code=1)
    assert (removed["removed"], removed["items"]) == (["discs/00.jpg"], 39)
    assert answer("collection", "stats", shop)["index"]["kind"] == "hnsw"
    assert "kept, tuned" in str(refusal("collection", "tune", shop))

    copied = answer("collection", "copy", shop, tmp_path / "copy")
    assert (copied["copied"], copied["items"]) == (39, 39)
    result = run("collection", "copy", shop, tmp_path / "copy")
    assert result.exit_code == 0
    assert "39 were there already" in result.stderr
    assert isinstance(refusal("collection", "copy", tmp_path / "none", shop), UsageError)
    here = answer("search", tmp_path / "copy", image, "-k", 3)["queries"][0]["neighbours"]
    assert here == by_image


def test_the_service_searches_and_writes_in_milvus(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    shop = f"milvus+file:{tmp_path / 'trial.db'}#shop"
    answer("collection", "create", shop, "--encoder", tiny_encoder)
    answer("collection", "add", shop, image_folder, "--limit", 20)
    settings = Settings(encoder=tiny_encoder, collection=shop, thumbnails=tmp_path / "thumbnails")
    content = (image_folder / "squares/00.jpg").read_bytes()
    with started(settings) as running:
        client = running.client
        posted = client.post("/items", files={"image": content}, data={"key": "new", "label": "x"})
        assert posted.status_code == 201
        hits = client.post("/search", files={"image": content}, data={"k": "2"}).json()
        assert hits["neighbours"][0]["key"] == "new"
        filtered = client.post("/search", json={"key": "new", "filter": {"label": "discs"}, "k": 3})
        assert {hit["label"] for hit in filtered.json()["neighbours"]} == {"discs"}
        assert client.get("/items/new/thumbnail").status_code == 200
        assert len(list((tmp_path / "thumbnails").rglob("*.webp"))) == 1
        assert client.get("/items?limit=3").json()["count"] == 21
        assert len(client.get("/items?sample=5").json()["items"]) == 5
        assert client.delete("/items/new").json() == {"removed": ["new"]}
        assert client.get("/items/new").status_code == 404
        assert list((tmp_path / "thumbnails").rglob("*.webp")) == []
    without = Settings(encoder=tiny_encoder, collection=shop)
    with started(without) as running:
        running.client.post("/items", files={"image": content}, data={"key": "new"})
        assert running.client.get("/items/new/thumbnail").status_code == 404
        assert running.client.get("/items/discs%2F00.jpg/thumbnail").status_code == 200


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of milvus-lite."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path / "server.db"))
    yield f"milvus://127.0.0.1:{port}"
    running.stop(0).wait()
    database.close()


def test_two_services_share_a_collection(
    tiny_encoder: Path, image_folder: Path, server: str
) -> None:
    shop = f"{server}/shop"
    answer("collection", "create", shop, "--encoder", tiny_encoder)
    settings = Settings(encoder=tiny_encoder, collection=shop)
    images = sorted(image_folder.rglob("*.png"))
    with started(settings) as one, started(settings) as two:

        def add_and_find(number: int) -> None:
            """What one service adds or removes, the other sees at once."""
            content = images[number].read_bytes()
            writer, reader = (one, two) if number % 2 else (two, one)
            path = f"/items/{number}"
            added = writer.client.post(
                "/items", files={"image": content}, data={"key": str(number)}
            )
            assert added.status_code == 201
            assert reader.client.get(path).status_code == 200
            hits = reader.client.post("/search", files={"image": content}, data={"k": "1"})
            assert hits.json()["neighbours"][0]["key"] == str(number)
            if number % 3 == 0:
                assert reader.client.delete(path).status_code == 200
                assert writer.client.get(path).status_code == 404

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add_and_find, range(len(images))))
        left = sum(1 for number in range(len(images)) if number % 3)
        assert one.client.get("/items").json()["count"] == left
