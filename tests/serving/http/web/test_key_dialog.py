"""The page of a service that asks for an API key."""

from pathlib import Path
from typing import Any

import pytest

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import started
from tests.serving.http.web.conftest import CHROMIUM, eventually, wait_for_images

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
COUNT_CANCEL_LISTENERS = """
window.cancelListeners = 0;
const add = EventTarget.prototype.addEventListener;
EventTarget.prototype.addEventListener = function (type, ...rest) {
  if (type === "cancel") window.cancelListeners += 1;
  return add.call(this, type, ...rest);
};
"""


def test_with_a_key(page: Any, tiny_encoder: Path, collection_folder: Path) -> None:
    settings = Settings(encoder=tiny_encoder, collection=collection_folder, read_key="open-sesame")
    with started(settings) as running:
        page.goto(running.url)
        page.get_by_role("dialog").wait_for()
        page.get_by_role("textbox", name="API key").fill("wrong-wrong")
        page.keyboard.press("Enter")
        page.get_by_text("That key is not known").wait_for()
        page.get_by_role("textbox", name="API key").fill("open-sesame")
        page.keyboard.press("Enter")
        page.locator(".card").first.wait_for()
        wait_for_images(page)
        assert page.evaluate("sessionStorage.getItem('lookalike-api-key')") == "open-sesame"
        assert page.evaluate("localStorage.length") == 0
        page.locator(".card > button").first.click()
        page.locator(".score").first.wait_for()
        wait_for_images(page)


def test_each_question_for_a_key_leaves_nothing_behind(page: Any, tiny_encoder: Path) -> None:
    page.add_init_script(COUNT_CANCEL_LISTENERS)
    with started(Settings(encoder=tiny_encoder, read_key="open-sesame")) as running:
        page.goto(running.url)
        for key in ("wrong", "wrong-again", "open-sesame"):
            page.get_by_role("dialog").wait_for()
            page.get_by_role("textbox", name="API key").fill(key)
            page.keyboard.press("Enter")
            eventually(page, "!document.querySelector('dialog[open] #key-input')?.value")
        page.get_by_text("It has no collection to search").wait_for()
        assert page.evaluate("window.cancelListeners") == 1
