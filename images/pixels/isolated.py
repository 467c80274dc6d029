"""Decoding in processes of their own, so that a hostile image costs that image only.

A decoder that crashes takes its process with it, one that hangs or eats memory is ended by the
system's own limits (`images.pixels.decode_worker`). The image at which that happened is refused
by name, and a new process takes the place of the old one. A process decodes one image at a time,
so there is never a doubt which one it was.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from queue import LifoQueue
from types import TracebackType
from typing import IO, Self

import numpy as np

from base.errors import ImageRefused, LookalikeError, RefusalReason, UsageError
from images.items import Content, Pixels
from images.pixels.decode import DEFAULT_MAX_PIXELS
from images.pixels.decode_worker import LENGTH, READY, REPLY
from images.pixels.preprocess import PreprocessSpec, load_image

SECONDS = 60.0
MEMORY = 2 * 2**30  # the largest image allowed takes a third of it
START_SECONDS = 120.0
PIPE_BYTES = 2**20
if sys.platform == "linux":
    import fcntl

COMMAND = (sys.executable, "-m", "images.pixels.decode_worker")


class Isolated:
    """Some decoding processes, for as many threads.

    Args:
        spec: what to make of the images.
        workers: processes.
        seconds: the longest that one image may take.
        memory: the most bytes that decoding one may take.
        max_pixels: as in `load_image`.
        command: what to run in place of `images.pixels.decode_worker`.

    Raises:
        LookalikeError: they cannot be started.
        UsageError: this system has no limits for processes.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        workers: int,
        *,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        command: Sequence[str] = COMMAND,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        if os.name != "posix":
            raise UsageError("decoding in processes of its own needs Linux or macOS")
        settings = {
            "preprocess": spec.to_dict(),
            "seconds": seconds,
            "memory": memory,
            "limits": {} if max_pixels == DEFAULT_MAX_PIXELS else {"max_pixels": max_pixels},
        }
        self._spec = spec
        self._seconds = seconds
        self._settings = json.dumps(settings).encode() + b"\n"
        self._command = command
        self._idle: LifoQueue[_Worker] = LifoQueue()
        for _ in range(workers):
            self._idle.put(_Worker(command, self._settings))
        self._workers = workers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes; nobody may be decoding any more."""
        for _ in range(self._workers):
            self._idle.get().end()

    def load(self, content: Content, spec: PreprocessSpec) -> tuple[Pixels, tuple[int, int]]:
        """Decode as `images.pixels.preprocess.load_image`; arrays need no decoder and stay here.

        Raises:
            ImageRefused: as there, and CRASHED or TIMED_OUT.
            LookalikeError: no process can be started any more.
        """
        if not isinstance(content, bytes):
            return load_image(content, spec)
        assert spec == self._spec
        worker = self._idle.get()
        try:
            if not worker.send(content):  # it ended while it was idle: not this image's fault
                worker = self._renewed(worker)
                worker.send(content)
            return worker.receive(spec, self._seconds)
        except _EndedError as ended:
            worker = self._renewed(worker)
            raise ended.refusal(self._seconds) from ended
        finally:
            self._idle.put(worker)

    def _renewed(self, worker: "_Worker") -> "_Worker":
        worker.end()
        return _Worker(self._command, self._settings)


class _EndedError(Exception):
    """A process ended, with this code, while it decoded."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)

    def refusal(self, seconds: float) -> ImageRefused:
        """Return the refusal of the image at which it ended."""
        if self.code == -signal.SIGALRM:
            message = f"decoding took longer than {seconds:g} s"
            return ImageRefused(RefusalReason.TIMED_OUT, message)
        how = f"with code {self.code}"
        if self.code < 0:
            how = f"by {signal.Signals(-self.code).name}"
        message = f"the process that decoded it was ended {how}"
        return ImageRefused(RefusalReason.CRASHED, message)


class _Worker:
    """One decoding process."""

    def __init__(self, command: Sequence[str], settings: bytes) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                # Ctrl-C is for the process that decides what it means.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise LookalikeError(f"cannot start a process to decode in: {error}") from error
        self._input, self._output = _pipes(self._process)
        _widen(self._input, self._output)
        try:
            self._input.write(settings)
            if self._read(len(READY), START_SECONDS) != READY:
                raise LookalikeError(
                    "a process to decode in does not answer as one of this version does"
                )
        except (_EndedError, OSError) as error:
            self.end()
            message = f"a process to decode in does not start ({error}); try {' '.join(command)}"
            raise LookalikeError(message) from error

    def send(self, content: bytes) -> bool:
        """Send an image; False if the process has ended."""
        try:
            for chunk in (LENGTH.pack(len(content)), content):
                left = memoryview(chunk)
                while left:
                    left = left[self._input.write(left) or 0 :]
        except (BrokenPipeError, ValueError):  # ValueError: it has been given up before
            return False
        return True

    def receive(self, spec: PreprocessSpec, seconds: float) -> tuple[Pixels, tuple[int, int]]:
        """Wait for the answer. Raises ImageRefused and _EndedError."""
        # The process's own timer comes first; this is for one that has been stopped.
        head = self._read(REPLY.size, 2 * seconds + 10)
        usable, width, height, length = REPLY.unpack(head)
        data = self._read(length, START_SECONDS)
        if not usable:
            reason, message = json.loads(data)
            raise ImageRefused(RefusalReason(reason), message)
        shape = (spec.size, spec.size, spec.channels)
        return np.frombuffer(data, np.uint8).reshape(shape), (width, height)

    def _read(self, size: int, seconds: float) -> bytes:
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        data = bytearray()
        while len(data) < size:
            if not poll.poll(1000 * seconds):
                self._process.kill()
                self._process.wait()
                raise _EndedError(-signal.SIGALRM)
            more = self._output.read(size - len(data))
            if not more:
                raise _EndedError(self._process.wait())
            data += more
        return bytes(data)

    def end(self) -> None:
        """Kill the process, if it still runs, and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()


def _widen(*pipes: IO[bytes]) -> None:
    """Let a whole image into a pipe at once, where the system can: fewer changes of process."""
    if sys.platform == "linux":
        with suppress(OSError):  # beyond what this user may have; slower is all it is
            for pipe in pipes:
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
