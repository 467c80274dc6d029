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
COUNT_LISTENERS = """
window.dialogListeners = 0;
const add = EventTarget.prototype.addEventListener;
EventTarget.prototype.addEventListener = function (type, ...rest) {
  if (this.matches?.("#key-dialog, #key-form")) window.dialogListeners += 1;
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
    page.add_init_script(COUNT_LISTENERS)
    with started(Settings(encoder=tiny_encoder, read_key="open-sesame")) as running:
        page.goto(running.url)
        for key in ("wrong", "wrong-again", "open-sesame"):
            page.get_by_role("dialog").wait_for()
            page.get_by_role("textbox", name="API key").fill(key)
            page.keyboard.press("Enter")
            eventually(page, "!document.querySelector('dialog[open] #key-input')?.value")
        page.get_by_text("It has no collection to search").wait_for()
        assert page.evaluate("window.dialogListeners") == 2


def test_a_closed_dialog_can_be_opened_again(
    page: Any, tiny_encoder: Path, collection_folder: Path
) -> None:
    settings = Settings(encoder=tiny_encoder, collection=collection_folder, read_key="open-sesame")
    with started(settings) as running:
        page.goto(running.url)
        for _ in range(2):
            page.get_by_role("dialog").wait_for()
            page.keyboard.press("Escape")
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Enter a key").click()
        page.get_by_role("textbox", name="API key").fill("open-sesame")
        page.keyboard.press("Enter")
        page.locator(".card").first.wait_for()
        page.evaluate("sessionStorage.setItem('lookalike-api-key', 'no-longer')")
        page.locator(".card > button").first.click()
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Enter a key").click()
        page.get_by_role("textbox", name="API key").fill("open-sesame")
        page.keyboard.press("Enter")
        page.locator(".score").first.wait_for()


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("open\u200b-sesame", "Character 5 of the key cannot be in a key"),
        ("open\u2010sesame", "“\u2010” (U+2010)"),
        ("öpen-sesame", "“ö” (U+00F6)"),
        ("open\u0007-sesame", "U+0007"),
        ("   ", "The key is empty"),
    ],
)
def test_a_key_that_cannot_be_is_told(page: Any, tiny_encoder: Path, key: str, fault: str) -> None:
    with started(Settings(encoder=tiny_encoder, read_key="open-sesame")) as running:
        page.goto(running.url)
        page.get_by_role("textbox", name="API key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_role("dialog").get_by_text(fault).wait_for()
        page.get_by_role("textbox", name="API key").fill("open-sesame")
        page.keyboard.press("Enter")
        page.get_by_text("It has no collection to search").wait_for()
