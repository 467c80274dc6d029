"""What the page shows after something went another way: one state, the focus, a way on."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.serving.http.conftest import Running
from tests.serving.http.web.conftest import CHROMIUM, eventually

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined });"


@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_changed_is_to_be_chosen_again(
    page: Any, service: Running, image_folder: Path, tmp_path: Path, removed: bool
) -> None:
    chosen = tmp_path / "mine.jpg"
    shutil.copy(image_folder / "squares" / "04.jpg", chosen)
    page.goto(service.url)
    page.locator(".card").first.wait_for()
    page.set_input_files("#file", chosen)
    page.locator(".score").first.wait_for()
    if removed:
        chosen.unlink()
    else:
        chosen.write_bytes((image_folder / "discs" / "00.jpg").read_bytes() + b"more")
        later = chosen.stat().st_mtime + 10  # browsers compare whole seconds
        os.utime(chosen, (later, later))
    page.select_option("#k", "12")
    page.get_by_role("alert").get_by_text("mine.jpg has changed").wait_for()
    assert "Choose it again" in page.get_by_role("alert").inner_text()


def test_enter_on_a_card_leaves_the_focus_in_the_results(page: Any, service: Running) -> None:
    page.goto(service.url)
    page.locator(".card > button").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="24 look-alikes").wait_for()
    assert page.evaluate("document.activeElement.id") == "results"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement === document.querySelector('.card > button')")


def test_a_refused_file_leaves_nothing_of_the_query_before(page: Any, service: Running) -> None:
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.set_input_files("#file", note)
    page.get_by_role("alert").get_by_text("note.txt is not an image").wait_for()
    assert page.locator("#preview").is_hidden()
    assert page.locator("#share").is_hidden()
    assert page.locator(".card").count() == 0
    assert page.locator("#caption").inner_text() == ""
    assert "key=" not in page.url
    page.select_option("#k", "12")
    assert page.get_by_role("alert").is_visible()
    page.go_back()
    page.locator(".score").first.wait_for()
    eventually(page, "document.getElementById('message').hidden")


def test_a_link_can_be_copied_without_a_clipboard(page: Any, service: Running) -> None:
    page.add_init_script(NO_CLIPBOARD)
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    for _ in range(2):
        page.get_by_role("button", name="Copy link").click()
        field = page.get_by_role("textbox", name="Copy this text")
        assert field.input_value() == page.url
        assert page.evaluate("getSelection().toString()") == page.url
    page.locator(".card > button").first.click()
    eventually(page, "document.querySelector('.copy') === null")
