"""Several processes that share one listening socket, and the one that watches over them.

The parent starts the workers, replaces one that ends, and says when all listen. Each worker's event
loop tells it every second that it turns; one that is silent for a minute hangs, and is killed and
replaced too. SIGTERM or Ctrl-C to the parent ends all in order: the socket is closed, what has
begun is answered, and the exit code is one. Workers do not hear Ctrl-C, which a terminal sends to
all processes, and end if the parent is gone.

Uvicorn's own supervisor is not used: it kills a worker that takes more than some seconds to import
what it needs, looks every half second, and leaves workers behind where it is killed itself.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from base.cpus import available_cpus
from base.errors import LookalikeError, UsageError
from serving.http.engine.engine import Engine
from serving.http.engine.worker import Worker
from serving.http.policy.settings import Settings
from serving.http.server.server import DRAIN_SECONDS, make_server, say_listening

logger = logging.getLogger(__name__)

LONGEST_WAIT = 30.0  # seconds, before a worker that cannot start is tried again
MARGIN = 5.0  # seconds over those for draining, before a worker is killed
BEAT_SECONDS = 1.0  # between two signs of life
HUNG_SECONDS = 60.0  # without one


@dataclass(eq=False, slots=True)
class Slot:
    """A worker's place, and who has it.

    Attributes:
        said: where it tells that it listens, and then that it lives.
        silent: looks in a row at which it had not told. Looks and not seconds: nobody hangs while
            all of them, the parent too, are suspended.
        failures: workers in a row that ended before they listened.
        again_at: when to start another one, by the monotonic clock.
    """

    worker: Worker
    process: SpawnProcess | None = None
    said: Connection | None = None
    listens: bool = False
    silent: int = 0
    failures: int = 0
    again_at: float = 0.0


def serve_with_workers(settings: Settings, listener: socket.socket) -> None:
    """Serve with `settings.workers` processes until Ctrl-C or SIGTERM.

    Raises:
        UsageError: this system cannot share a socket, or what the settings name is wrong.
        ArtifactError: a file is damaged, or encoder and collection do not belong together.
        LookalikeError: no worker can start.
    """
    if sys.platform == "win32":
        raise UsageError(f"workers is {settings.workers}: on Windows there is one")
    Engine(lambda: settings).check()
    share = max(1, available_cpus() // settings.workers)
    settings = replace(settings, threads=settings.threads or share)
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        slots = [Slot(Worker(number, share, Path(folder))) for number in range(settings.workers)]
        Supervisor(settings, listener, slots).run()


class Supervisor:
    """Starts workers, replaces them and ends them; in the main thread."""

    def __init__(self, settings: Settings, listener: socket.socket, slots: list[Slot]) -> None:
        self._settings = settings
        self._listener = listener
        self._slots = slots
        self._announced = False
        self._look_at = 0.0  # by the monotonic clock

    def run(self) -> None:
        """Until a signal; raises LookalikeError where no worker can start."""
        with _signals() as signaled:
            try:
                while not self._watch(signaled):
                    pass
            finally:
                self._listener.close()
                self._end(signaled)

    def _watch(self, signaled: int) -> bool:
        """Wait for what happens next and does what is due; returns whether a signal came."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and slot.again_at <= now:
                self._start(slot)
        later = [slot.again_at for slot in self._slots if slot.process is None]
        said = [slot.said for slot in self._slots if slot.said is not None]
        running = [slot for slot in self._slots if slot.process is not None]
        ends = [slot.process.sentinel for slot in running if slot.process is not None]
        due = min([self._look_at, *later])
        happened = wait([signaled, *said, *ends], max(0.0, due - now))
        if signaled in happened:
            return True
        for slot in running:
            if slot.said in happened:
                self._hear(slot)
            if slot.process is not None and slot.process.sentinel in happened:
                self._ended(slot)
        if time.monotonic() >= self._look_at:
            self._look()
        return False

    def _look(self) -> None:
        """Kills workers that hang."""
        self._look_at = time.monotonic() + BEAT_SECONDS
        for slot in self._slots:
            if slot.process is None or not slot.listens:
                continue
            slot.silent += 1
            if slot.silent * BEAT_SECONDS > HUNG_SECONDS:
                logger.warning("worker %s hangs and is killed", slot.process.pid)
                slot.process.kill()
                slot.silent = 0

    def _start(self, slot: Slot) -> None:
        said, say = multiprocessing.get_context("spawn").Pipe(duplex=False)
        arguments = (self._settings, self._listener, slot.worker, say)
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        # A blocked signal stays blocked in the new process: Ctrl-C is the parent's to hear.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        say.close()
        slot.process, slot.said, slot.listens = process, said, False

    def _hear(self, slot: Slot) -> None:
        assert slot.said is not None
        try:
            slot.said.recv_bytes()
        except EOFError:  # it ends
            slot.said.close()
            slot.said = None
            return
        slot.silent = 0
        if slot.listens:
            return
        slot.listens, slot.failures = True, 0
        if not self._announced and all(one.listens for one in self._slots):
            self._announced = True
            say_listening(self._listener, f" with {len(self._slots)} workers")

    def _ended(self, slot: Slot) -> None:
        assert slot.process is not None
        process, slot.process = slot.process, None
        process.join()
        while slot.said is not None and slot.said.poll():  # to its end
            self._hear(slot)
        how = _how_it_ended(process.exitcode)
        slot.failures = 0 if slot.listens else slot.failures + 1
        slot.listens = False
        if slot.failures and not (self._announced and any(one.process for one in self._slots)):
            raise LookalikeError(f"a worker {how} before it listened; the lines above say why")
        wait_seconds = min(2.0**slot.failures, LONGEST_WAIT) if slot.failures else 0.0
        slot.again_at = time.monotonic() + wait_seconds
        logger.warning("worker %s %s: another one is started", process.pid, how)

    def _end(self, signaled: int) -> None:
        """Asks all to end, and kills those that do not in time or at a second signal."""
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            process.terminate()
        end = time.monotonic() + DRAIN_SECONDS + MARGIN
        os.set_blocking(signaled, False)
        _emptied(signaled)
        while alive := [process for process in running if process.is_alive()]:
            sentinels = [process.sentinel for process in alive]
            happened = wait([signaled, *sentinels], max(0.0, end - time.monotonic()))
            if not happened or signaled in happened:
                for process in alive:
                    process.kill()
        for process in running:
            process.join()


def work(settings: Settings, listener: socket.socket, worker: Worker, say: Connection) -> None:
    """Serve until told to end: what a worker does."""
    engine = Engine(lambda: settings, worker)
    try:
        engine.open()
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    beating: set[asyncio.Task[None]] = set()

    def begin_to_beat() -> None:
        beating.add(asyncio.get_running_loop().create_task(_beat(say)))

    server = make_server(engine, on_started=begin_to_beat)

    def end_with_the_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        server.should_exit = True

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    server.run(sockets=[listener])
    sys.exit(0 if server.started else LookalikeError.exit_code)


async def _beat(say: Connection) -> None:
    """Tells the parent that this event loop turns."""
    os.set_blocking(say.fileno(), False)
    while True:
        with contextlib.suppress(OSError):  # it does not listen, for now or for good
            say.send_bytes(b"")
        await asyncio.sleep(BEAT_SECONDS)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Yield a file descriptor that can be read once SIGTERM or SIGINT has come."""
    read, write = os.pipe()
    os.set_blocking(write, False)

    def note(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(write, b"!")

    before = {one: signal.signal(one, note) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield read
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        os.close(read)
        os.close(write)


def _emptied(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 1024)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
