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
    picked = tmp_path / "mine.jpg"
    shutil.copy(image_folder / "squares" / "04.jpg", picked)
    page.goto(service.url)
    page.locator(".card").first.wait_for()
    page.set_input_files("#file", picked)
    page.locator(".score").first.wait_for()
    if removed:
        picked.unlink()
    else:
        picked.write_bytes((image_folder / "discs" / "00.jpg").read_bytes() + b"more")
        later = picked.stat().st_mtime + 10  # browsers compare whole seconds
        os.utime(picked, (later, later))
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


def test_a_result_dragged_onto_the_query_is_searched_for(page: Any, service: Running) -> None:
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    title = page.locator(".card > button").nth(2).get_attribute("title")
    page.locator(".card img").nth(2).drag_to(page.locator("#drop"))
    eventually(page, "key => document.getElementById('caption').innerText.includes(key)", title)
    page.wait_for_url("**/?key=*")
    eventually(page, "key => document.title.startsWith(key)", title)
    assert page.locator("#message").is_hidden()
    assert page.locator("#veil").is_hidden()


def test_a_wide_screen_is_filled(browser: Any, service: Running) -> None:
    context = browser.new_context(viewport={"width": 3000, "height": 1200})
    page = context.new_page()
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    right = page.evaluate("document.getElementById('grid').getBoundingClientRect().right")
    assert right > 2900
    context.close()


def test_names_are_isolated_and_in_the_title(page: Any, service: Running) -> None:
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    assert page.title() == "discs/02.jpg · 24 look-alikes · Lookalike"
    assert page.locator(".card bdi.key").count() == 24
    assert page.locator(".card bdi.label").count() == 24
    assert "discs/02.jpg" in page.locator("#caption bdi").all_inner_texts()
    page.get_by_role("link", name="Lookalike").click()
    page.get_by_role("heading", name="Start with one of these").wait_for()
    assert page.title() == "Start with one of these · Lookalike"
