import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from base.progress import Bar, Lines, progress_bar, progress_for

# A long command whose standard error is a file: 12 items in about 0.6 s, a line every 0.2 s.
LONG_COMMAND = """
import time
import base.progress

base.progress.SECONDS_BETWEEN_LINES = 0.2
with base.progress.progress_bar("extracting") as on_progress:
    for done in range(13):
        on_progress(done, 12)
        time.sleep(0.05)
"""


def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar() -> None:
    assert isinstance(progress_for(Console(file=io.StringIO())), Lines)
    assert isinstance(progress_for(Console(file=io.StringIO(), force_terminal=True)), Bar)


def test_a_line_comes_every_thirty_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("base.progress.time.monotonic", lambda: now)
    out = io.StringIO()
    lines = Lines(Console(file=out, width=40))
    lines.begin("training", total=100, done=20)
    for now, done in ((120.0, 30), (130.0, 35), (140.0, 45), (161.0, 60), (180.0, 100)):  # noqa: B007
        lines.update(done, "loss 1.250")
    lines.end()
    lines.message("a line with [brackets] that is longer than the forty columns of the console")
    assert out.getvalue().splitlines() == [
        "training 35/100  0.5/s  loss 1.250  0:02:10 left",
        "training 60/100  0.66/s  loss 1.250  0:01:01 left",
        "training 100/100  1/s  loss 1.250  in 0:01:20",
        "a line with [brackets] that is longer than the forty columns of the console",
    ]


def test_lines_of_a_stage_that_begins_anew_count_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`tune` builds one index after the other until one keeps the promise."""
    now = 0.0
    monkeypatch.setattr("base.progress.time.monotonic", lambda: now)
    out = io.StringIO()
    lines = Lines(Console(file=out))
    lines.begin("building", total=9000)
    for now, done in ((29.0, 9000), (31.0, 1000), (61.0, 4000), (81.0, 9000)):  # noqa: B007
        lines.update(done)
    lines.end()
    assert out.getvalue().splitlines() == [
        "building 1000/9000",
        "building 4000/9000  100/s  0:00:50 left",
        "building 9000/9000  160/s  in 0:01:21",
    ]


def test_a_stage_without_news_prints_no_line() -> None:
    out = io.StringIO()
    lines = Lines(Console(file=out))
    lines.begin("training", total=100)
    lines.end()
    assert not out.getvalue()


def test_a_bar_shows_stage_figures_and_messages() -> None:
    out = io.StringIO()
    bar = Bar(Console(file=out, force_terminal=True, width=120))
    bar.message("before")
    bar.begin("training [a]", total=4, done=1)
    bar.update(2, "loss 1.25")
    bar.update(4)
    bar.message("above")
    bar.end()
    bar.update(4, "ignored after the end")
    for text in ("before", "training [a]", "loss 1.25", "4/4", "above"):
        assert text in out.getvalue()
    assert "ignored" not in out.getvalue()


def test_a_long_command_shows_lines_where_standard_error_is_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr:
        command = [sys.executable, "-c", LONG_COMMAND]
        done = subprocess.run(command, stderr=stderr, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b""
    lines = log.read_text().splitlines()
    assert len(lines) >= 3
    for line in lines[:-1]:
        assert re.fullmatch(r"extracting \d+/12  [\d.]+/s  0:00:\d\d left", line)
    assert re.fullmatch(r"extracting 12/12  [\d.]+/s  in 0:00:\d\d", lines[-1])


def test_a_command_that_is_refused_before_it_begins_shows_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match="refused"), progress_bar("adding"):
        raise ValueError("refused")
    assert capsys.readouterr() == ("", "")


def test_a_command_that_is_stopped_shows_how_far_it_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped() -> None:
        with progress_bar("adding") as on_progress:
            on_progress(0, 8)
            on_progress(3, 8)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("adding 3/8  ")
