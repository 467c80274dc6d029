"""Several processes that share one listening socket, and the parent that watches over them.

The parent starts the workers, replaces one that ends, and announces when all listen. Each worker's
event loop sends it a heartbeat every second; one that misses a minute of them hangs, and is killed
and replaced too. SIGTERM or Ctrl-C to the parent ends all in order: the socket is closed, what has
begun is answered, and the parent's exit code is 0. Workers ignore Ctrl-C, which a terminal sends to
all processes, and end if the parent is gone.

Uvicorn's own supervisor is not used: it kills a worker that takes more than some seconds to import
what it needs, looks every half second, and leaves workers behind where it is killed itself.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import shutil
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
from serving.http.engine.lifecycle import Lifecycle
from serving.http.engine.worker import Worker
from serving.http.policy.settings import Settings
from serving.http.server.listener import announce
from serving.http.server.uvicorn_server import DRAIN_SECONDS, make_server

logger = logging.getLogger(__name__)

MAX_BACKOFF = 30.0  # seconds, before a worker that cannot start is tried again
KILL_MARGIN = 5.0  # seconds over those for draining, before a worker is killed
BEAT_SECONDS = 1.0  # between two heartbeats
HUNG_SECONDS = 60.0  # without one


@dataclass(eq=False, slots=True)
class Slot:
    """One of the workers, and the process that runs it now.

    Attributes:
        heartbeats: receives the first one when the process listens, then one every second.
        missed: checks in a row without one. Checks and not seconds: no worker hangs while all
            processes, the parent too, are suspended.
        failures: processes in a row that ended before they listened.
        restart_at: when to start the next one, by the monotonic clock.
    """

    worker: Worker
    process: SpawnProcess | None = None
    heartbeats: Connection | None = None
    listens: bool = False
    missed: int = 0
    failures: int = 0
    restart_at: float = 0.0


def serve_with_workers(settings: Settings, listener: socket.socket) -> None:
    """Serve with `settings.workers` processes until Ctrl-C or SIGTERM.

    Raises:
        UsageError: this system cannot share a socket, or what the settings name is wrong.
        ArtifactError: a file is damaged, or encoder and collection do not belong together.
        LookalikeError: no worker can start.
    """
    if sys.platform == "win32":
        raise UsageError(f"workers is {settings.workers}: on Windows there is one")
    digest = Lifecycle(lambda: settings).check()
    share = max(1, available_cpus() // settings.workers)
    settings = replace(settings, threads=settings.threads or share)
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        slots = [
            Slot(Worker(number, share, Path(folder), digest)) for number in range(settings.workers)
        ]
        Supervisor(settings, listener, slots).run()


class Supervisor:
    """Starts workers, replaces them and ends them; in the main thread."""

    def __init__(self, settings: Settings, listener: socket.socket, slots: list[Slot]) -> None:
        self._settings = settings
        self._listener = listener
        self._slots = slots
        self._announced = False
        self._next_check = 0.0  # by the monotonic clock

    def run(self) -> None:
        """Supervise until a signal comes; raise LookalikeError where no worker can start."""
        with _signal_pipe() as signaled:
            try:
                while not self._wait(signaled):
                    pass
            finally:
                self._listener.close()
                self._stop(signaled)

    def _wait(self, signaled: int) -> bool:
        """Wait for the next event and handle it; return whether it was a signal."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and slot.restart_at <= now:
                self._start(slot)
        restarts = [slot.restart_at for slot in self._slots if slot.process is None]
        heartbeats = [slot.heartbeats for slot in self._slots if slot.heartbeats is not None]
        running = [slot for slot in self._slots if slot.process is not None]
        sentinels = [slot.process.sentinel for slot in running if slot.process is not None]
        due = min([self._next_check, *restarts])
        ready = wait([signaled, *heartbeats, *sentinels], max(0.0, due - now))
        if signaled in ready:
            return True
        for slot in running:
            if slot.heartbeats in ready:
                self._receive(slot)
            if slot.process is not None and slot.process.sentinel in ready:
                self._clean_up(slot)
        if time.monotonic() >= self._next_check:
            self._check_heartbeats()
        return False

    def _check_heartbeats(self) -> None:
        """Kill workers that hang."""
        self._next_check = time.monotonic() + BEAT_SECONDS
        for slot in self._slots:
            if slot.process is None or not slot.listens:
                continue
            slot.missed += 1
            if slot.missed * BEAT_SECONDS > HUNG_SECONDS:
                logger.warning("worker %s hangs and is killed", slot.process.pid)
                slot.process.kill()
                slot.missed = 0

    def _start(self, slot: Slot) -> None:
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        arguments = (self._settings, self._listener, slot.worker, sender)
        process = spawn.Process(target=run_worker, args=arguments)
        # A blocked signal stays blocked in the new process: Ctrl-C is for the parent alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        sender.close()
        slot.process, slot.heartbeats, slot.listens = process, receiver, False

    def _receive(self, slot: Slot) -> None:
        """Take a heartbeat; the first one means that the worker listens."""
        assert slot.heartbeats is not None
        try:
            slot.heartbeats.recv_bytes()
        except EOFError:  # it ends
            slot.heartbeats.close()
            slot.heartbeats = None
            return
        slot.missed = 0
        if slot.listens:
            return
        slot.listens, slot.failures = True, 0
        if not self._announced and all(one.listens for one in self._slots):
            self._announced = True
            announce(self._listener, f" with {len(self._slots)} workers")

    def _clean_up(self, slot: Slot) -> None:
        """Join a process that has ended and schedule the next one."""
        assert slot.process is not None
        process, slot.process = slot.process, None
        process.join()
        while slot.heartbeats is not None and slot.heartbeats.poll():  # to the end of the pipe
            self._receive(slot)
        how = _describe_exit(process.exitcode)
        slot.failures = 0 if slot.listens else slot.failures + 1
        slot.listens = False
        if slot.failures and not (self._announced and any(one.process for one in self._slots)):
            raise LookalikeError(f"a worker {how} before it listened; the lines above say why")
        backoff = min(2.0**slot.failures, MAX_BACKOFF) if slot.failures else 0.0
        slot.restart_at = time.monotonic() + backoff
        logger.warning("worker %s %s: another one is started", process.pid, how)

    def _stop(self, signaled: int) -> None:
        """Ask all to end, and kill those that do not in time or at a second signal."""
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + DRAIN_SECONDS + KILL_MARGIN
        os.set_blocking(signaled, False)
        _drain(signaled)
        while alive := [process for process in running if process.is_alive()]:
            sentinels = [process.sentinel for process in alive]
            ready = wait([signaled, *sentinels], max(0.0, deadline - time.monotonic()))
            if not ready or signaled in ready:
                for process in alive:
                    process.kill()
        for process in running:
            process.join()


def run_worker(
    settings: Settings, listener: socket.socket, worker: Worker, heartbeats: Connection
) -> None:
    """Serve in a worker process until told to end."""
    lifecycle = Lifecycle(lambda: settings, worker)
    try:
        lifecycle.open()
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    tasks: set[asyncio.Task[None]] = set()  # referenced, or they would be collected

    def start_heartbeats() -> None:
        tasks.add(asyncio.get_running_loop().create_task(_send_heartbeats(heartbeats)))

    server = make_server(lifecycle, on_started=start_heartbeats)

    def end_with_the_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        server.should_exit = True

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    server.run(sockets=[listener])
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it was killed and could not clean up
        shutil.rmtree(worker.folder, ignore_errors=True)
    sys.exit(0 if server.started else LookalikeError.exit_code)


async def _send_heartbeats(heartbeats: Connection) -> None:
    """Let the parent know that this event loop turns."""
    os.set_blocking(heartbeats.fileno(), False)
    while True:
        with contextlib.suppress(OSError):  # the parent does not read, for now or for good
            heartbeats.send_bytes(b"")
        await asyncio.sleep(BEAT_SECONDS)


@contextlib.contextmanager
def _signal_pipe() -> Iterator[int]:
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


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 1024)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
