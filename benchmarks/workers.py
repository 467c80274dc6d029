"""Processes that stand ready and measure when they are asked: a line of JSON in, one out."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Worker:
    """A module run in a process of its own, which calls `serve`. As a context manager it ends."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, **request: object) -> None:
        """Ask; the answer is fetched with `answer`, so that several may work at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer. Raises RuntimeError if the process ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            description = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
            raise RuntimeError(f"{description} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: object) -> dict[str, Any]:
        """Ask and wait."""
        self.begin(**request)
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # which closes its input


def serve(work: Callable[..., dict[str, Any]]) -> None:
    """Answer every line of standard input with what `work` makes of it."""
    for line in sys.stdin:
        print(json.dumps(work(**json.loads(line))), flush=True)
