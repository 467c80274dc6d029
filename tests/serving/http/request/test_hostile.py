"""Images made to do harm: only 200 or 4xx, the service stays alive and its memory bounded."""

import io
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SLOTS = 12
MAX_PIXELS = 4_000_000
MAX_GROWTH = 600 * 2**10  # KiB, over what the service needed before


@pytest.fixture(scope="module")
def limited(tiny_encoder: Path) -> Iterator[Running]:
    with started(Settings(encoder=tiny_encoder, max_pixels=MAX_PIXELS)) as running:
        yield running


def encoded(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(5).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def truncated() -> Iterator[bytes]:
    for kind in FORMATS:
        whole = encoded(kind)
        for end in np.linspace(1, len(whole) - 1, SLOTS).astype(int):
            yield whole[:end]
        yield whole + b"more" * 100
        for at in np.linspace(8, len(whole) - 9, SLOTS).astype(int):
            yield whole[:at] + b"\xff" * 8 + whole[at + 8 :]


def png_of(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def lying() -> Iterator[bytes]:
    yield png_of(60_000, 60_000, b"\0" * 5_000_000)  # a bomb by its header
    yield png_of(2000, 2000, b"\0" * 100)  # far too little behind it
    yield png_of(2, 2, b"\0" * 50_000_000)  # far too much
    yield png_of(0, 0, b"")
    jpeg = bytearray(encoded("JPEG"))
    at = jpeg.index(b"\xff\xc0")
    for height, width in ((65500, 65500), (1900, 2000), (0, 64), (1, 1)):
        jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
        yield bytes(jpeg)
    gif = bytearray(encoded("GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield bytes(gif)
    bmp = bytearray(encoded("BMP"))
    for width, height in ((2**31 - 1, 2**31 - 1), (-64, -48), (64, 4_000_000)):
        bmp[18:26] = struct.pack("<ii", width, height)
        yield bytes(bmp)


def deep_exif() -> bytes:
    """Directories that point at themselves, behind a good image."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return encoded("JPEG", exif=b"Exif\0\0" + tiff)


def strange() -> Iterator[bytes]:
    yield from (b"", b"\0", b"\0" * 10_000, b"GIF89a", b"RIFF\xff\xff\xff\xffWEBP", b"<svg/>")
    yield b"%PDF-1.4" + b"x" * 100
    yield deep_exif()
    frames = [Image.new("P", (64, 64), color) for color in range(200)]
    for kind in ("GIF", "WEBP"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        yield file.getvalue()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("corpus", [truncated, lying, strange])
def test_only_good_answers_and_refusals(limited: Running, corpus: object) -> None:
    assert callable(corpus)
    images = list(corpus())
    before = peak()
    good = 0
    for start in range(0, len(images), 16):
        some = images[start : start + 16]
        files = [("images", ("holiday.png", image)) for image in some]  # whatever it is
        answer = limited.client.post("/embed", files=files)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
        good += answer.status_code == 200 and sum(
            vector is not None for vector in answer.json()["embeddings"]
        )
    for image in images[::7]:
        answer = limited.client.post(
            "/embed", content=image, headers={"Content-Type": "image/jpeg"}
        )
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert peak() - before < MAX_GROWTH
    assert good < len(images)
    assert limited.client.get("/readyz").status_code == 200
    assert limited.client.post("/embed", files={"images": encoded("JPEG")}).status_code == 200


def test_many_large_bodies_at_once_are_bounded(tiny_encoder: Path, image_bytes: bytes) -> None:
    settings = Settings(encoder=tiny_encoder, max_body_bytes=10_000, max_bytes_in_flight=15_000)
    with started(settings) as running:
        share = running.runtime.bytes_in_flight.open()
        share.take(8_000)  # as if another request were under way
        headers = {"Content-Type": "image/jpeg"}
        announced = running.client.post("/embed", content=b"x" * 9_000, headers=headers)
        assert running.error(announced)[:2] == (429, "overloaded")
        assert announced.headers["retry-after"] == "1"

        def unannounced() -> Iterator[bytes]:
            for _ in range(9):
                yield b"x" * 1_000

        status: int | None
        try:
            url = f"{running.url}/embed"
            status = httpx.post(url, content=unannounced(), headers=headers).status_code
        except httpx.TransportError:
            status = None  # it closed while we were still sending
        assert status in (429, None)
        good = running.client.post("/embed", content=image_bytes, headers=headers)
        assert good.status_code == 200
        share.close()
        while running.runtime.bytes_in_flight.held:  # given back a moment after the answer
            running.client.get("/livez")
