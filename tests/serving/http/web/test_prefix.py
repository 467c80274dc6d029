"""The page behind a proxy that serves it under a prefix, `/shop/`, and passes nothing else on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.http.policy.settings import Settings
from serving.http.server.listener import listen, url_of
from tests.serving.http.conftest import QuietServer, Running, started
from tests.serving.http.web.conftest import CHROMIUM, wait_for_images

KEY = "write-key-12345"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
HOP = ("transfer-encoding", "connection", "content-length")


@pytest.fixture(scope="module")
def locked(tiny_encoder: Path, collection_folder: Path) -> Iterator[Running]:
    settings = Settings(encoder=tiny_encoder, collection=collection_folder, write_key=KEY)
    with started(settings) as running:
        yield running


@pytest.fixture
def prefixed(locked: Running) -> Iterator[str]:
    """The URL of such a proxy; it passes on paths and Host as they were sent."""

    async def forward(request: Request) -> Response:
        path = request.scope["raw_path"].decode().removeprefix("/shop")
        url = f"{locked.url}{path}?{request.url.query}"
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP]
        headers.append(("x-forwarded-for", "203.0.113.9"))
        async with httpx.AsyncClient() as client:
            answer = await client.request(
                request.method, url, headers=headers, content=await request.body()
            )
        kept = {name: value for name, value in answer.headers.items() if name not in HOP}
        return Response(answer.content, answer.status_code, kept)

    methods = ["GET", "POST"]
    app = Starlette(routes=[Route("/shop/{path:path}", forward, methods=methods)])
    listener = listen("127.0.0.1", 0)
    server = QuietServer(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert server.ready.wait(30)
    yield f"{url_of(listener)}/shop/"
    server.should_exit = True
    thread.join(30)
    listener.close()


def test_the_page_works_under_a_prefix(page: Any, prefixed: str, image_folder: Path) -> None:
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            elsewhere.append(request.url)
            if request.url.startswith("http") and not request.url.startswith(prefixed)
            else None
        ),
    )
    page.goto(prefixed)
    page.locator("#key-input").fill(KEY)
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("heading", name="Start with one of these").wait_for()
    wait_for_images(page)
    page.locator(".card > button").nth(5).click()
    page.get_by_role("heading", name="24 look-alikes").wait_for()
    assert page.url.startswith(f"{prefixed}?key=")
    page.locator("#file").set_input_files(image_folder / "discs" / "00.jpg")
    page.get_by_text("1.000").first.wait_for()
    page.locator("#home").click()
    page.get_by_role("heading", name="Start with one of these").wait_for()
    assert page.url == prefixed
    assert elsewhere == []
