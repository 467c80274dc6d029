"""Decoding in processes of their own: what a hostile image costs."""

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from base.errors import ImageRefused, LookalikeError, RefusalReason
from images.pixels.isolated import Isolated
from images.pixels.preprocess import PreprocessSpec, load_image

SPEC = PreprocessSpec(size=32)

HOSTILE = """
    import ctypes, os, signal, sys, time
    from images.pixels import decode_worker, preprocess

    original = preprocess.load_image

    def hooked(content, spec):
        if content == b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if content == b"crash":
            ctypes.string_at(0)
        if content == b"sleep":
            time.sleep(600)
        if content == b"spin":
            while True: pass
        if content == b"eat":
            hoard = []
            while True: hoard.append(bytearray(2**28))  # at once, however slow the machine is
        if content == b"print":
            print("a library's remark")
            os.write(1, b"another")
            return original(open(sys.argv[1], "rb").read(), spec)
        return original(content, spec)

    preprocess.load_image = hooked
    decode_worker.main()
"""


@pytest.fixture(scope="module")
def hostile(image_folder: Path) -> Iterator[Isolated]:
    file = image_folder / "discs/00.jpg"
    command = [sys.executable, "-c", textwrap.dedent(HOSTILE), str(file)]
    with Isolated(SPEC, 1, seconds=0.5, memory=2**28, command=command) as isolated:
        yield isolated


def refusal(isolated: Isolated, content: bytes) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        isolated.load(content, SPEC)
    return caught.value


def test_images_and_refusals_are_those_of_the_same_process(image_folder: Path) -> None:
    contents = [path.read_bytes() for path in sorted(image_folder.glob("*/*"))]
    with Isolated(SPEC, 2) as isolated, ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda content: isolated.load(content, SPEC), contents))
        for content, (pixels, size) in zip(contents, loaded, strict=True):
            expected, expected_size = load_image(content, SPEC)
            np.testing.assert_array_equal(pixels, expected)
            assert size == expected_size
        for bad in (b"", b"no picture", contents[0][:100]):
            with pytest.raises(ImageRefused) as expected_refusal:
                load_image(bad, SPEC)
            assert str(refusal(isolated, bad)) == str(expected_refusal.value)
        array = np.full((40, 50, 3), 7, np.uint8)
        np.testing.assert_array_equal(isolated.load(array, SPEC)[0], load_image(array, SPEC)[0])


@pytest.mark.parametrize(
    ("content", "reason", "phrase"),
    [
        (b"kill", RefusalReason.CRASHED, "ended by SIGKILL"),
        (b"crash", RefusalReason.CRASHED, "ended by SIGSEGV"),
        (b"sleep", RefusalReason.TIMED_OUT, "longer than 0.5 s"),
        (b"spin", RefusalReason.TIMED_OUT, "longer than 0.5 s"),
        (b"eat", RefusalReason.TOO_MANY_PIXELS, "does not fit into memory"),
    ],
)
def test_a_hostile_image_costs_itself_and_is_named(
    hostile: Isolated, image_folder: Path, content: bytes, reason: RefusalReason, phrase: str
) -> None:
    good = (image_folder / "discs/00.jpg").read_bytes()
    refused = refusal(hostile, content)
    assert (refused.reason, phrase in refused.message) == (reason, True), refused
    np.testing.assert_array_equal(hostile.load(good, SPEC)[0], load_image(good, SPEC)[0])


def test_what_a_library_prints_does_not_come_between(hostile: Isolated, image_folder: Path) -> None:
    good = (image_folder / "discs/00.jpg").read_bytes()
    np.testing.assert_array_equal(hostile.load(b"print", SPEC)[0], load_image(good, SPEC)[0])


def test_a_process_that_ended_while_idle_is_no_image_s_fault(
    hostile: Isolated, image_folder: Path
) -> None:
    good = (image_folder / "discs/00.jpg").read_bytes()
    for worker in list(hostile._idle.queue):
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    np.testing.assert_array_equal(hostile.load(good, SPEC)[0], load_image(good, SPEC)[0])


def test_a_stopped_process_is_given_up(hostile: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    for worker in list(hostile._idle.queue):
        os.kill(worker._process.pid, signal.SIGSTOP)
        read: Callable[[int, float], bytes] = worker._read
        monkeypatch.setattr(worker, "_read", lambda size, _, read=read: read(size, 0.2))
    assert refusal(hostile, b"no picture").reason == RefusalReason.TIMED_OUT


def test_processes_that_do_not_start_end_the_run() -> None:
    with pytest.raises(LookalikeError, match="does not start"):
        Isolated(SPEC, 1, command=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(LookalikeError, match="cannot start"):
        Isolated(SPEC, 1, command=["/no/such/program"])


def test_nothing_is_left_running(image_folder: Path) -> None:
    before = set(threading.enumerate())  # other tests' threads may still be ending
    with Isolated(SPEC, 2) as isolated:
        processes = [worker._process for worker in isolated._idle.queue]
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)
    assert set(threading.enumerate()) <= before
