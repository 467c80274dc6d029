import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import started

# Each in a process of its own: what is set is the process's for good.
ARENAS = """
import ctypes, os, sys, tempfile, threading
from serving.http.telemetry import memory
memory.available_cpus = lambda: 3
memory.limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fdopen.restype = ctypes.c_void_p, ctypes.c_void_p
libc.fdopen.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_char_p], [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
together = threading.Barrier(8)
def allocate():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with tempfile.NamedTemporaryFile() as file:
    stream = libc.fdopen(os.dup(file.fileno()), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(os.pread(file.fileno(), 2**20, 0).count(b"<heap nr="))
"""
GIVEN_BACK = """
import ctypes, sys
from base.memory import resident_memory
from serving.http.telemetry import memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(32768) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 32768)
for block in blocks[:-1]:  # the last one stays: nothing at the end can be cut off
    libc.free(block)
before = resident_memory()
if sys.argv[1] == "given back":
    memory.give_back()
print(before - resident_memory())
"""
of_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")


def number_from(script: str, *arguments: str, **variables: str) -> int:
    environment = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"} | variables
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@of_glibc
def test_as_many_arenas_as_cpus_unless_the_user_says_how_many() -> None:
    assert number_from(ARENAS) == 3
    assert number_from(ARENAS, MALLOC_ARENA_MAX="5") == 5


@of_glibc
def test_freed_memory_goes_back_to_the_system() -> None:
    assert number_from(GIVEN_BACK, "kept") < 10e6
    assert number_from(GIVEN_BACK, "given back") > 40e6


def test_a_service_gives_memory_back_and_tells_what_it_holds(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = threading.Event()
    monkeypatch.setattr("serving.http.engine.lifecycle.GIVING_BACK_SECONDS", 0.01)
    monkeypatch.setattr("serving.http.engine.lifecycle.give_back", given_back.set)
    with started(Settings(encoder=tiny_encoder)) as running:
        assert given_back.wait(60)
        text = running.client.get("/metrics").text
    held = re.search(r"^lookalike_resident_bytes (\d+)$", text, re.MULTILINE)
    if sys.platform == "linux":
        assert held is not None
        assert 2**24 < int(held[1]) < 2**40
