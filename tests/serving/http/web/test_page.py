"""The web page in a real browser: drop and choose images, see scores, go from item to item."""

import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from serving.collection import create_collection
from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started
from tests.serving.http.web.conftest import CHROMIUM, eventually, wait_for_images

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
DROP = """
([name, type, numbers]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(numbers)], name, { type }));
  const fire = (kind) => dispatchEvent(
    new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  fire("dragenter");
  const veiled = !document.getElementById("veil").hidden;
  fire("drop");
  return veiled;
}
"""
PASTE = """
([name, type, numbers]) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([new Uint8Array(numbers)], name, { type }));
  dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
}
"""


def scores(page: Any) -> list[float]:
    return [float(text) for text in page.locator(".score").all_inner_texts()]


def keys(page: Any) -> list[str]:
    titles = page.locator(".card > button").evaluate_all("buttons => buttons.map(b => b.title)")
    return [str(title) for title in titles]


TITLES = "[...document.querySelectorAll('.card > button')].map(button => button.title)"
FIRST_TITLE = "document.querySelector('.card > button')?.title"


def test_a_newcomer_can_click_at_once(page: Any, service: Running) -> None:
    page.goto(service.url)
    page.get_by_role("heading", name="Start with one of these").wait_for()
    assert page.locator(".card").count() == 24
    wait_for_images(page)
    assert "40 items" in page.locator("#facts").inner_text()
    title = keys(page)[5]
    page.locator(".card > button").nth(5).click()
    page.get_by_role("heading", name="24 look-alikes").wait_for()
    assert title not in keys(page)
    page.get_by_role("link", name="Lookalike").click()
    page.get_by_role("heading", name="Start with one of these").wait_for()
    before = keys(page)
    page.get_by_role("button", name="Show others").click()
    eventually(page, f"keys => JSON.stringify({TITLES}) !== JSON.stringify(keys)", before)


def test_choose_an_image_then_find_similar(page: Any, service: Running, image_folder: Path) -> None:
    page.goto(service.url)
    page.locator(".card").first.wait_for()
    page.set_input_files("#file", image_folder / "squares" / "04.jpg")
    page.locator(".score").first.wait_for()
    assert keys(page)[0] == "squares/04.jpg"
    shown = scores(page)
    assert len(shown) == 24
    assert shown[0] == pytest.approx(1, abs=0.001)
    assert shown == sorted(shown, reverse=True)
    assert page.locator("#preview img").get_attribute("alt") == "Your image"
    assert "squares" in page.locator(".card .label").all_inner_texts()
    assert page.locator(".card img").first.get_attribute("alt") == "squares, squares/04.jpg"
    assert "key=" not in page.url

    second = keys(page)[1]
    page.locator(".card > button").nth(1).click()
    page.wait_for_url("**/?key=*")
    assert urllib.parse.unquote(page.url).endswith(f"?key={second}")
    eventually(page, "key => document.getElementById('caption').innerText.includes(key)", second)
    eventually(page, f"key => {FIRST_TITLE} !== key", "squares/04.jpg")
    assert second not in keys(page)

    page.go_back()  # the image chosen before is searched for again
    eventually(page, f"{FIRST_TITLE} === 'squares/04.jpg'")


@pytest.mark.parametrize("way", [DROP, PASTE])
def test_drop_and_paste(page: Any, service: Running, images: dict[str, bytes], way: str) -> None:
    page.goto(service.url)
    page.locator(".card").first.wait_for()
    veiled = page.evaluate(way, ["a.png", "image/png", list(images["stripes/03.png"])])
    assert veiled is (True if way == DROP else None)
    page.locator(".score").first.wait_for()
    assert keys(page)[0] == "stripes/03.png"
    assert page.locator("#veil").is_hidden()


def test_a_link_can_be_shared(page: Any, service: Running) -> None:
    page.goto(f"{service.url}/?key=discs%2F02.jpg&k=12&min=0.5")
    page.locator(".score").first.wait_for()
    assert page.locator("#k").input_value() == "12"
    assert page.locator("#minimum-shown").inner_text() == "0.50"
    assert len(scores(page)) <= 12
    assert min(scores(page)) >= 0.5
    assert "discs" in page.locator("#caption").inner_text()
    wait_for_images(page)


def test_count_and_minimum_score(page: Any, service: Running) -> None:
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    everything = scores(page)
    page.select_option("#k", "12")
    page.get_by_role("heading", name="12 look-alikes").wait_for()
    assert scores(page) == everything[:12]
    least = (everything[2] + everything[3]) / 2
    page.locator("#minimum").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        f"{least:.2f}",
    )
    eventually(page, "document.querySelectorAll('.score').length < 12")
    assert all(score >= round(least, 2) for score in scores(page))
    assert "k=12" in page.url
    assert "min=" in page.url


def test_the_keyboard_is_enough(page: Any, service: Running) -> None:
    page.goto(service.url)
    page.locator(".card > button").first.focus()
    titles = keys(page)
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.title") == titles[1]
    page.keyboard.press("ArrowDown")
    assert titles.index(page.evaluate("document.activeElement.title")) > 2
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="24 look-alikes").wait_for()


def test_what_goes_wrong_is_said(page: Any, service: Running) -> None:
    page.goto(f"{service.url}/?key=no%2Fsuch")
    page.get_by_role("alert").get_by_text("No item with the key 'no/such'").wait_for()
    page.get_by_role("button", name="Start over").click()
    page.get_by_role("heading", name="Start with one of these").wait_for()
    note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.set_input_files("#file", note)
    page.get_by_role("alert").get_by_text("note.txt is not an image").wait_for()
    fake = {"name": "fake.png", "mimeType": "image/png", "buffer": b"hello"}
    page.set_input_files("#file", fake)
    page.get_by_role("heading", name="That did not work").wait_for()


def test_without_a_collection(page: Any, tiny_encoder: Path, image_folder: Path) -> None:
    with started(Settings(encoder=tiny_encoder)) as running:
        page.goto(running.url)
        page.get_by_text("It has no collection to search").wait_for()
        page.set_input_files("#file", image_folder / "discs" / "00.jpg")
        page.get_by_role("heading", name="Embedded").wait_for()
        page.get_by_text("24 numbers", exact=True).wait_for()


def test_an_empty_collection(page: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    from export.encoder_file.encoder_file import open_encoder

    create_collection(tmp_path / "c", open_encoder(tiny_encoder).digest, 24).close()
    with started(Settings(encoder=tiny_encoder, collection=tmp_path / "c")) as running:
        page.goto(running.url)
        page.get_by_role("heading", name="The collection is empty").wait_for()


WATCH_KEPT_FILES = """
const set = Map.prototype.set;
Map.prototype.set = function (key, value) {
  if (value instanceof File) window.keptFiles = this;
  return set.call(this, key, value);
};
"""


def test_only_the_last_images_are_kept(page: Any, service: Running, image_folder: Path) -> None:
    page.add_init_script(WATCH_KEPT_FILES)
    page.goto(service.url)
    page.locator(".card").first.wait_for()
    paths = sorted(image_folder.rglob("*.*"))[:20]
    for path in paths:
        page.set_input_files("#file", path)
        eventually(page, "name => document.getElementById('caption').innerText === name", path.name)
    assert page.evaluate("window.keptFiles.size") == 16
    assert page.evaluate("[...window.keptFiles.values()].at(-1).name") == paths[-1].name


def test_nothing_overflows_on_a_phone(browser: Any, service: Running) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    page = context.new_page()
    page.goto(f"{service.url}/?key=discs%2F02.jpg")
    page.locator(".score").first.wait_for()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    context.close()
