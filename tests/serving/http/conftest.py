"""A running service for the tests: the real thing on a real socket, in a thread of this process.

One server serves a whole module. `started` makes others with settings of their own.
"""

import asyncio
import contextlib
import io
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from export.encoder_file.encoder_file import open_encoder
from images.pixels.preprocess import load_image
from serving.collection import Record, create_collection

with warnings.catch_warnings():
    # BentoML and what it imports use deprecated things of their own; ours are still errors.
    warnings.simplefilter("ignore")
    from serving.http.engine.lifecycle import Lifecycle
    from serving.http.engine.runtime import Runtime
    from serving.http.policy.settings import Settings
    from serving.http.routes.service import make_service
    from serving.http.server.listener import listen, url_of
from tests.serving.http.request.elsewhere import Elsewhere, listening_elsewhere


@dataclass
class Running:
    """A service that answers at `url`; `runtime` is its inside."""

    url: str
    runtime: Runtime
    client: httpx.Client

    def error(self, response: httpx.Response) -> tuple[int, str, str | None]:
        """Status, type and param of a refusal whose shape is right."""
        body = response.json()
        assert set(body) <= {"error", "errors"}, body
        assert set(body["error"]) == {"type", "message", "param"}, body
        assert body["error"]["message"], body
        assert response.headers["content-type"] == "application/json"
        assert "Traceback" not in response.text
        return response.status_code, body["error"]["type"], body["error"]["param"]

    def plain_error(self, response: httpx.Response) -> tuple[int, str]:
        """Status and type of a refusal under /v2, whose shape is right."""
        body = response.json()
        assert set(body) == {"error"}, body
        assert isinstance(body["error"], str), body
        assert body["error"], body
        assert response.headers["content-type"] == "application/json"
        assert "Traceback" not in response.text
        return response.status_code, response.headers["x-error-type"]


class QuietServer(uvicorn.Server):
    """Runs in a thread until `should_exit` is set."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.contextmanager
def started(settings: Settings, *, warm: bool = True) -> Iterator[Running]:
    """A service with these settings, ready when it is given out; `warm=False` never warms up."""
    lifecycle = Lifecycle(lambda: settings)
    lifecycle.open()
    runtime = lifecycle.runtime
    if not warm:
        runtime.embedder.warm_up = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    listener = listen("127.0.0.1", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = make_service(lifecycle).to_asgi()
    server = QuietServer(uvicorn.Config(app, lifespan="on", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = url_of(listener)
    try:
        assert server.ready.wait(30), "the service did not start"
        with httpx.Client(base_url=url, timeout=20) as client:
            while warm and not lifecycle.warm:
                assert client.get("/readyz").status_code in (200, 503)
            yield Running(url, runtime, client)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def encode(tiny_encoder: Path) -> Callable[[bytes], NDArray[np.float32]]:
    """Embeds one encoded image without any of the service's code: the oracle."""
    encoder = open_encoder(tiny_encoder)

    def embed(content: bytes) -> NDArray[np.float32]:
        pixels, _ = load_image(content, encoder.preprocess)
        vector: NDArray[np.float32] = encoder.encode(pixels[None])[0]
        return vector

    return embed


@pytest.fixture(scope="session")
def images(image_folder: Path) -> dict[str, bytes]:
    """The images of the folder, by the key that the folder's source gives them."""
    return {
        path.relative_to(image_folder).as_posix(): path.read_bytes()
        for path in sorted(image_folder.rglob("*.*"))
    }


def make_collection(
    folder: Path,
    encoder: Path,
    image_folder: Path,
    images: dict[str, bytes],
    encode: Callable[[bytes], NDArray[np.float32]],
) -> Path:
    """A collection of the images, as `lookalike collection add` would make it."""
    digest = open_encoder(encoder).digest
    with create_collection(folder, digest, len(encode(next(iter(images.values()))))) as collection:
        collection.add(
            Record(
                key=key,
                vector=encode(content),
                uri=str(image_folder / key),
                label=key.partition("/")[0],
                metadata={"number": number},
            )
            for number, (key, content) in enumerate(images.items())
        )
    return folder


@pytest.fixture(scope="module")
def collection_folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_encoder: Path,
    image_folder: Path,
    images: dict[str, bytes],
    encode: Callable[[bytes], NDArray[np.float32]],
) -> Path:
    """A collection of the 40 images, new for each module."""
    folder = tmp_path_factory.mktemp("service") / "collection"
    return make_collection(folder, tiny_encoder, image_folder, images, encode)


@pytest.fixture(scope="module")
def service(tiny_encoder: Path, collection_folder: Path) -> Iterator[Running]:
    """A service with a collection, without keys."""
    with started(Settings(encoder=tiny_encoder, collection=collection_folder)) as running:
        yield running


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H,W,3] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def fresh(
    tmp_path: Path,
    tiny_encoder: Path,
    image_folder: Path,
    images: dict[str, bytes],
    encode: Callable[[bytes], NDArray[np.float32]],
) -> Iterator[Running]:
    """A service whose collection a test may change."""
    folder = make_collection(tmp_path / "c", tiny_encoder, image_folder, images, encode)
    with started(Settings(encoder=tiny_encoder, collection=folder)) as running:
        yield running


@pytest.fixture
def elsewhere(image_bytes: bytes) -> Iterator[Elsewhere]:
    with listening_elsewhere(image_bytes) as server:
        yield server
