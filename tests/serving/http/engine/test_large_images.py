"""Images of many pixels in small files: memory is bounded over all requests."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started


def webp(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "WEBP", lossless=True, method=0)
    return file.getvalue()


LARGE = webp(4000, 2000)  # 128 MB while it is decoded


@pytest.mark.parametrize("limit", [130_000_000, 100_000_000])
def test_large_images_are_answered_one_after_the_other_or_refused(
    tiny_encoder: Path, collection_folder: Path, image_bytes: bytes, limit: int
) -> None:
    settings = Settings(encoder=tiny_encoder, collection=collection_folder, max_decode_bytes=limit)
    with started(settings) as running, ThreadPoolExecutor(8) as clients:

        def embed(content: bytes) -> tuple[int, str | None]:
            answer = running.client.post("/embed", files={"images": content})
            return answer.status_code, answer.headers.get("x-error-type")

        fits = limit >= 16 * 4000 * 2000
        expected = (200, None) if fits else (413, "too-many-pixels")
        assert set(clients.map(embed, [LARGE] * 8)) == {expected}
        assert embed(image_bytes) == (200, None)
        add_and_see(running, added=fits)


def add_and_see(running: Running, *, added: bool) -> None:
    answer = running.client.post("/items?key=large", files={"image": LARGE})
    assert answer.status_code == (201 if added else 413)
    if added:
        assert running.client.get("/items/large/thumbnail").status_code == 200
        running.client.delete("/items/large")
