import io

import pytest
from rich.console import Console

from base.progress import Bars, Lines, reporter_for


def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar() -> None:
    assert isinstance(reporter_for(Console(file=io.StringIO())), Lines)
    assert isinstance(reporter_for(Console(file=io.StringIO(), force_terminal=True)), Bars)


def test_lines_come_every_ten_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("base.progress.time.monotonic", lambda: now)
    out = io.StringIO()
    lines = Lines(Console(file=out, width=40))
    lines.begin("training", total=100, done=20)
    for now, done in ((104.0, 30), (110.0, 40), (112.0, 45), (125.0, 100)):  # noqa: B007
        lines.update(done, "loss 1.250")
    lines.say("a line with [brackets] that is longer than the forty columns of the console")
    lines.end()
    assert out.getvalue().splitlines() == [
        "training 40/100  loss 1.250  30 s left",
        "training 100/100  loss 1.250  0 s left",
        "a line with [brackets] that is longer than the forty columns of the console",
    ]


def test_a_bar_shows_stage_figures_and_lines() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=120))
    bars.say("before")
    bars.begin("training [a]", total=4, done=1)
    bars.update(2, "loss 1.25")
    bars.update(4)
    bars.say("above")
    bars.end()
    bars.update(4, "ignored after the end")
    for text in ("before", "training [a]", "loss 1.25", "4/4", "above"):
        assert text in out.getvalue()
    assert "ignored" not in out.getvalue()
