"""Other processes that use a collection while a test does."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager


def _start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(
    script: str, *arguments: object
) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """Run a Python script; yield its process and its lines, and kill it at the end if it runs."""
    with _start(script, *arguments) as process:
        assert process.stdout is not None
        try:
            yield process, iter(process.stdout)
        finally:
            process.kill()
