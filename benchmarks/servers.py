"""Servers as processes of their own: started, loaded by `benchmarks.load`, held still, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from benchmarks import rivals
from benchmarks.load import Order, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BOUNDARY = "load-0a5d1c"
START_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server that runs.

    Attributes:
        name: `lookalike` or a rival's.
        process: the first of its processes.
        port: on 127.0.0.1.
        path: where images are sent.
        field: their name in the form.
    """

    name: str
    process: subprocess.Popen[bytes]
    port: int
    path: str
    field: str

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the server run while the block does; all others are stopped."""
        _signal_tree(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            _signal_tree(self.process.pid, signal.SIGSTOP)


def _signal_tree(pid: int, number: signal.Signals) -> None:
    """Signal a process and all below it: BentoML puts its workers into sessions of their own."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, number)  # the parent first: one that stands starts no more children
        for child in children:
            _signal_tree(int(child), number)


@contextmanager
def started(
    name: str, encoder: Path, folder: Path, image: bytes, collection: Path | None = None
) -> Iterator[Target]:
    """Start a server, wait until it is warm, and stop it until `awake`.

    Args:
        name: `lookalike` or a rival's.
        encoder: what it serves.
        folder: for its log and the first request.
        image: the first request's.
        collection: what ours also serves.

    Raises:
        RuntimeError: it does not answer; the message ends with its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = [sys.executable, "-m", "lookalike", "serve", str(encoder), "--port", str(port)]
    ours += [] if collection is None else [str(collection)]
    command = ours if name == "lookalike" else rivals.command(name, port)
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=rivals.environment(str(encoder)),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    target = Target(
        name=name,
        process=process,
        port=port,
        path=rivals.PATHS.get(name, "/embed"),
        field=rivals.FIELDS.get(name, "images"),
    )
    try:
        _wait(target, folder, image, log)
        _signal_tree(process.pid, signal.SIGSTOP)
        yield target
    finally:
        _signal_tree(process.pid, signal.SIGKILL)
        process.wait()


def _wait(target: Target, folder: Path, image: bytes, log: Path) -> None:
    bodies = [
        str(body) for body in write_bodies(folder / f"{target.name}-first", [[image]], target)
    ]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and target.process.poll() is None:
        try:
            answers = load(target, bodies, seconds=1, clients=1).answers
        except RuntimeError:  # it does not listen yet
            time.sleep(0.5)
            continue
        if any(status == 200 for status, _ in answers) and _warm(target):
            return
    raise RuntimeError(f"{target.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _warm(target: Target) -> bool:
    """Whether ours has measured its batches; the others do not say."""
    if target.name != "lookalike":
        return True
    return httpx.get(f"http://127.0.0.1:{target.port}/readyz").is_success


def write_bodies(folder: Path, requests: Sequence[Sequence[bytes]], target: Target) -> list[Path]:
    """Write forms of one or more images as files."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, images in enumerate(requests):
        sections = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{target.field}"; '
            f'filename="{position}.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode()
            + image
            for position, image in enumerate(images)
        ]
        paths.append(folder / f"{number:04}")
        paths[-1].write_bytes(b"\r\n".join([*sections, f"--{BOUNDARY}--\r\n".encode()]))
    return paths


def load(
    target: Target,
    bodies: Sequence[str],
    *,
    seconds: float,
    lead: float = 0.0,
    clients: int = 0,
    rate: float = 0.0,
) -> Result:
    """Load a server that is awake from another process.

    Raises:
        RuntimeError: the load could not be put on.
    """
    order = Order(
        port=target.port,
        path=target.path,
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
        bodies=list(bodies),
        seconds=seconds,
        lead=lead,
        clients=clients,
        rate=rate,
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(asdict(order)).encode(),
        capture_output=True,
        timeout=seconds + lead + 120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"loading {target.name} failed: {done.stderr.decode()[-500:]}")
    return Result(**json.loads(done.stdout))
