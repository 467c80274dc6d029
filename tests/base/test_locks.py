"""The folder lock: one holder, named by its number, gone with its process."""

import os
import threading
from pathlib import Path

import pytest

from base.errors import LookalikeError
from base.locks import Locked, folder_lock


def test_only_one_holds_it(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(Locked) as locked, folder_lock(tmp_path):
        pass
    assert locked.value.holder == str(os.getpid())
    with folder_lock(tmp_path):
        pass


def test_it_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), folder_lock(tmp_path):
        raise ValueError("inside")
    with folder_lock(tmp_path):
        pass


def test_waiting_gets_it_when_it_is_free(tmp_path: Path) -> None:
    held = threading.Event()
    order = []

    def hold() -> None:
        with folder_lock(tmp_path):
            held.set()
            release.wait()
            order.append("first")

    release = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    release.set()
    with folder_lock(tmp_path, wait=60):
        order.append("second")
    holder.join()
    assert order == ["first", "second"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match="nothing"), folder_lock(tmp_path / "nothing"):
        pass
