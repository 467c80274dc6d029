"""A real browser, whose pages may have no fault in their scripts and ask nothing elsewhere."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page; a fault in its scripts or a request to elsewhere fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1:", "blob:", "data:"))
            else faults.append(f"asked elsewhere: {request.url}")
        ),
    )
    opened.on(
        "console",
        lambda said: faults.append(said.text) if "Content Security" in said.text else None,
    )
    yield opened
    context.close()
    assert faults == []


def eventually(page: Any, script: str, argument: object = None) -> None:
    """Waits for a script to be true. Playwright's own way needs `eval`, which the page forbids."""
    for _ in range(600):
        if page.evaluate(script, argument):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {script}")


def wait_for_images(page: Any) -> None:
    """Every image is there; those further down are asked for when one scrolls to them."""
    page.locator(".card").last.scroll_into_view_if_needed()
    eventually(
        page,
        "[...document.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth > 0)",
    )
