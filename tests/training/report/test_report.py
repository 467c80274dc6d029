"""The page is whole, bounded, needs nothing from elsewhere, and shows what it was given."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.protocols.verdict import Verdict
from training.recipes.recipe_files import load_recipe
from training.report.charts import Curve, format_number, line_chart, plane, thinned, ticks
from training.report.image_strips import data_uri, nearest
from training.report.monitor import Measurement
from training.report.page import State, write_report
from training.report.watched import Watched

if TYPE_CHECKING:
    from pathlib import Path

RANDOM = np.random.default_rng(1)
VOID = {"meta", "img"}
WATCHED = Watched(
    images=RANDOM.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8),
    views=RANDOM.integers(0, 255, (120, 32, 32, 3), dtype=np.uint8),
    labels=np.arange(60) % 3,
    classes=("ant", "<bee>", "cat"),
)
FEATURES = RANDOM.normal(size=(60, 16)).astype(np.float32)
STATE = State(step=5, steps=10, elapsed_s=75.0, describes="resnet18 0.25x at 32 px")


class Reader(HTMLParser):
    """Checks that every tag is closed where it should be, and notes tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write(run: Path, *, watched: Watched = WATCHED, alarm: str | None = None, **state: Any) -> str:
    lines = [
        {"step": n, "samples": 8 * n, "loss": 5 - 0.1 * n, "learning_rate": 1e-3 / (n + 1)}
        for n in range(6)
    ]
    lines.append({"step": 5, "samples": 40, "rankme": 7.5, "knn_accuracy": 0.625})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(
        run,
        load_recipe("small-cpu").to_dict(),
        {"source": {"name": "photos <i>", "pictures": 60}},
        watched,
        measured=Measurement(figures={}, features=FEATURES, alarm=alarm),
        state=dataclasses.replace(STATE, **state),
    )
    return (run / "report.html").read_text()


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = write(tmp_path)
    reader = read(page)
    assert all(address.startswith("data:image/jpeg;base64,") for address in reader.addresses)
    assert not re.search(r"https?:|url\(|@import|<script", page)
    assert reader.seen["img"] == 12 * 3 + 8 * 8
    assert reader.seen["circle"] >= 60
    assert len(page) < 1_000_000
    for section in ("ignore", "finds alike", "Map of", "Recipe", "Environment"):
        assert section in page
    assert "62.5 %" in page
    assert "<b>50.0 %</b><span>of the run, step 5 of 10" in page
    assert "kNN accuracy, step 5" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(re.sub(r"(class)=(\w+)", r'\1="\2"', svg))


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    page = write(tmp_path)
    assert "<bee>" not in page
    assert "&lt;bee&gt;" in page
    assert "photos &lt;i&gt;" in page


def test_an_alarm_stands_out(tmp_path: Path) -> None:
    assert 'role="alert"' not in write(tmp_path)
    page = write(tmp_path, alarm="the encoder has collapsed")
    assert 'role="alert"><b>Look here:</b> the encoder has collapsed' in page


def test_the_verdict_comes_first_and_figures_stand_beside_their_rivals(tmp_path: Path) -> None:
    verdict = Verdict(verdict="learned little", reason="<so>", hint="more samples")
    baselines = {
        "start": {"knn_accuracy": 0.57},
        "pixels": {"knn_accuracy": 0.6},
        "random": {},
        "queries": 100,
        "k": 40,
        "drawn_from": "held out",
    }
    page = write(tmp_path, verdict=verdict, baselines=baselines)
    read(page)
    assert '<p class="alarm"><b>learned little</b>: &lt;so&gt;. Try: more samples</p>' in page
    assert page.index("learned little") < page.index("<h2>")
    assert "<td>62.5 % (52.7 % to 71.4 %), step 5</td><td>57.0 %</td><td>60.0 %</td>" in page
    assert "100 queries: held out" in page
    assert "kNN with k = 40" in page
    good = dataclasses.replace(verdict, verdict="learned", hint="")
    assert '<p class="verdict"><b>learned</b>: ' in write(tmp_path, verdict=good)


def test_refused_images_are_listed(tmp_path: Path) -> None:
    refused = [{"key": f"{n}.jpg", "reason": "empty", "message": "no bytes"} for n in range(70)]
    (tmp_path / "refused.jsonl").write_text("".join(json.dumps(one) + "\n" for one in refused))
    page = write(tmp_path)
    assert "70 pictures could not be used" in page
    assert "The first 50" in page
    assert page.count("no bytes") == 50


def test_without_labels_nothing_is_colored(tmp_path: Path) -> None:
    none = dataclasses.replace(WATCHED, labels=np.full(60, -1), classes=())
    page = write(tmp_path, watched=none, step=10)
    read(page)
    assert "knone" in page
    assert "class=legend" not in page
    assert 'class="same"' not in page
    assert "<b>finished</b>" in page


def test_frames_say_whether_labels_agree(tmp_path: Path) -> None:
    page = write(tmp_path)
    order, _ = nearest(FEATURES, np.arange(60), 7)
    assert page.count('class="query"') == 8
    assert page.count('class="same"') + page.count('class="other"') == 8 * 7
    assert (order != np.arange(60)[:, None]).all()


def test_nearest_against_a_loop() -> None:
    order, cosine = nearest(FEATURES, np.array([4, 9]), 3)
    for row, query in enumerate((4, 9)):
        a = FEATURES[query]
        others = [
            (float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), n)
            for n, b in enumerate(FEATURES)
            if n != query
        ]
        best = sorted(others, reverse=True)[:3]
        assert order[row].tolist() == [n for _, n in best]
        assert cosine[row] == pytest.approx([c for c, _ in best], rel=1e-5)


def test_the_map_keeps_the_largest_variance() -> None:
    line = np.outer(np.linspace(-1, 1, 9), [3.0, 1.0, 0.0, 0.0]) + np.array([0, 0, 0, 4])
    result = plane(line.astype(np.float32))
    assert result.shape == (9, 2)
    assert np.all(np.diff(result[:, 0]) > 0) or np.all(np.diff(result[:, 0]) < 0)
    assert plane(np.ones((4, 1), np.float32)).tolist() == [[0, 0]] * 4


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_of_any_number_of_channels(channels: int) -> None:
    image = RANDOM.integers(0, 255, (200, 200, channels), dtype=np.uint8)
    content = base64.b64decode(data_uri(image).partition(",")[2])
    with Image.open(io.BytesIO(content)) as decoded:
        assert (decoded.format, decoded.size, decoded.mode) == ("JPEG", (96, 96), "RGB")


# --- charts --------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_within(low: float, span: float) -> None:
    result = ticks(low, low + span)
    assert len(result) <= 6
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in result)


def test_ticks_and_words_by_hand() -> None:
    assert ticks(0, 100) == [0, 50, 100]
    assert ticks(0.11, 0.42) == [0.2, 0.3, 0.4]
    assert ticks(3, 3) == [3]
    shown = [format_number(v) for v in (0, 0.5, 2e-4, 12000, 3.4e6, -7.25)]
    assert shown == ["0", "0.5", "2e-4", "12k", "3.4M", "-7.25"]
    assert format_number(0.4567, percent=True) == "45.7 %"


def test_a_long_curve_is_thinned_to_its_means() -> None:
    curve = Curve(name="n", hint="h", x=range(1600), y=[float(n % 10) for n in range(1600)])
    x, y = thinned(curve)
    assert len(x) == 160
    assert set(y.tolist()) == {4.5}
    assert line_chart(curve).count("<circle") == 160


def test_a_curve_that_does_not_move_is_drawn() -> None:
    assert "nan" not in line_chart(Curve(name="n", hint="h", x=[0, 0], y=[1.0, 1.0]))
