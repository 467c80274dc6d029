"""What a service with tight limits, and without a collection, refuses."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, png, started


@pytest.fixture(scope="module")
def strict(tiny_encoder: Path) -> Iterator[Running]:
    """A service without a collection, with tight limits."""
    settings = Settings(
        encoder=tiny_encoder,
        max_body_bytes=60_000,
        max_image_bytes=20_000,
        max_pixels=10_000,
        max_images=3,
    )
    with started(settings) as running:
        yield running


def test_a_body_over_the_limit(strict: Running) -> None:
    headers = {"Content-Type": "image/png"}
    answer = strict.client.post("/embed", content=bytes(60_001), headers=headers)
    assert strict.error(answer) == (413, "body-too-large", None)


def test_a_chunked_body_over_the_limit(strict: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1000)

    headers = {"Content-Type": "image/png"}
    answer = strict.client.post("/embed", content=endless(), headers=headers)
    assert strict.error(answer) == (413, "body-too-large", None)


def test_an_image_over_the_byte_limit(strict: Running) -> None:
    rng = np.random.default_rng(0)
    large = png(rng.integers(0, 256, (99, 99, 3), np.uint8))
    assert 20_000 < len(large) < 60_000
    answer = strict.client.post("/embed", files={"images": large})
    assert strict.error(answer) == (413, "too-many-bytes", "images[0]")


def test_an_image_over_the_pixel_limit(strict: Running) -> None:
    large = png(np.zeros((101, 100, 3), np.uint8))
    answer = strict.client.post("/embed", files={"images": large})
    assert strict.error(answer) == (413, "too-many-pixels", "images[0]")


@pytest.mark.parametrize("as_json", [True, False])
def test_more_images_than_allowed(strict: Running, as_json: bool) -> None:
    small = png(np.zeros((2, 2, 3), np.uint8))
    if as_json:
        answer = strict.client.post(
            "/embed", json={"images": [base64.b64encode(small).decode()] * 4}
        )
    else:
        answer = strict.client.post("/embed", files=[("images", ("x", small))] * 4)
    assert strict.error(answer) == (413, "too-many-images", "images")


def test_a_service_without_a_collection_does_not_search(strict: Running) -> None:
    small = png(np.full((2, 2, 3), 200, np.uint8))
    for answer in (
        strict.client.post("/search", files={"image": small}),
        strict.client.get("/items"),
        strict.client.get("/items/a"),
        strict.client.get("/items/a/thumbnail"),
        strict.client.post("/items", files={"image": small}),
        strict.client.delete("/items/a"),
    ):
        assert strict.error(answer) == (404, "no-collection", None)
    assert strict.client.post("/embed", files={"image": small}).status_code == 200
