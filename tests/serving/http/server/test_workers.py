"""Several worker processes: one socket, one collection, one set of metrics; kills and ends."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from sys import executable

import httpx
import pytest
from PIL import Image

from base.errors import ArtifactError, UsageError
from serving.collection import create_collection
from serving.http.routes.service import read_environment
from serving.http.server.server import serve
from tests.serving.http.conftest import make_collection
from tests.serving.http.routes.test_embed import Encode

PROGRAM = """
import os, sys
from pathlib import Path
from serving.http.server import workers
from serving.http.server.server import serve
workers.HUNG_SECONDS = float(os.environ.pop("HUNG_SECONDS", 60))
serve(sys.argv[1], Path(sys.argv[2]) if sys.argv[2] else None, port=0, workers=int(sys.argv[3]))
"""
COUNT = 2


@dataclass
class Workers:
    """A service of several processes."""

    process: Popen[str]
    url: str
    line: str
    messages: list[str]

    def pids(self) -> set[int]:
        """Of the workers, not of the helpers that Python starts beside them."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = set()
        for pid in children.read_text().split():
            with contextlib.suppress(OSError):  # it has ended since
                if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                    pids.add(int(pid))
        return pids

    def on_each(self, ask: Callable[[httpx.Client], httpx.Response]) -> list[httpx.Response]:
        """Answers over so many new connections that each worker sends some."""
        answers = []
        for _ in range(24):
            with httpx.Client(base_url=self.url, timeout=30) as client:
                answers.append(ask(client))
        return answers

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)


@contextlib.contextmanager
def serving(
    encoder: Path, collection: Path | None, count: int = COUNT, **environ: str
) -> Iterator[Workers]:
    """A service, ended with Ctrl-C; what it says on standard error is in `messages` at the end."""
    process = Popen(
        [
            executable,
            "-W",
            "ignore",
            "-c",
            PROGRAM,
            str(encoder),
            str(collection or ""),
            str(count),
        ],
        env={**os.environ, **environ},
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    messages: list[str] = []
    err = process.stderr
    reader = threading.Thread(target=lambda: messages.extend(err), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, "".join(messages)
        yield Workers(process, line.split()[3], line, messages)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(60) == 0
            finally:
                process.kill()
        process.wait()
        reader.join(10)
        process.stdout.close()
        err.close()


@pytest.fixture(scope="module")
def workers(
    tiny_encoder: Path,
    image_folder: Path,
    images: dict[str, bytes],
    encode: Encode,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("workers") / "collection"
    make_collection(folder, tiny_encoder, image_folder, images, encode)
    with serving(tiny_encoder, folder) as running:
        yield running


def figure(text: str, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_one_line_says_that_all_listen(workers: Workers) -> None:
    assert workers.line.endswith(f" with {COUNT} workers (Ctrl-C stops it)\n")
    assert len(workers.pids()) == COUNT


def test_what_any_worker_adds_all_find(workers: Workers, images: dict[str, bytes]) -> None:
    """Each of 8 new connections adds an item; then every one of 24 finds all of them."""
    image = next(iter(images.values()))

    def add(number: int) -> int:
        form = {"key": f"new/{number}"}
        answer = httpx.post(f"{workers.url}/items", data=form, files={"image": image}, timeout=30)
        return answer.status_code

    with ThreadPoolExecutor(4) as clients:
        assert set(clients.map(add, range(8))) == {201}

    def search(client: httpx.Client) -> httpx.Response:
        return client.post("/search", files={"image": image}, data={"k": 20})

    for answer in workers.on_each(search):
        keys = {neighbor["key"] for neighbor in answer.json()["neighbours"]}
        assert {f"new/{number}" for number in range(8)} <= keys


def test_metrics_are_those_of_all_workers(workers: Workers) -> None:
    name = 'lookalike_requests_total{method="GET",route="/v1/models",status="200"}'
    before = figure(workers.get("/metrics").text, name)
    answers = workers.on_each(lambda client: client.get("/v1/models"))
    # A request is counted a moment after its answer, and may be asked about before that.
    for _ in range(200):
        counts = [figure(one.text, name) for one in workers.on_each(lambda c: c.get("/metrics"))]
        if set(counts) == {before + len(answers)}:
            break
        assert counts == sorted(counts), "a counter went back"
    assert set(counts) == {before + len(answers)}


def test_a_killed_worker_is_replaced_and_the_service_goes_on(workers: Workers) -> None:
    name = 'lookalike_requests_total{method="GET",route="/v1/models",status="200"}'
    workers.on_each(lambda client: client.get("/v1/models"))
    counted = figure(workers.get("/metrics").text, name)
    before = workers.pids()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 60
    message = f"worker {victim} was ended by SIGKILL: another one is started\n"
    while len(workers.pids() - {victim}) < COUNT or message not in workers.messages:
        assert workers.get("/items?limit=1").status_code == 200
        assert time.monotonic() < deadline
    assert workers.process.poll() is None
    assert figure(workers.get("/metrics").text, name) >= counted


def test_a_worker_that_hangs_is_replaced(tiny_encoder: Path, collection_folder: Path) -> None:
    with serving(tiny_encoder, collection_folder, HUNG_SECONDS="5") as running:
        before = running.pids()
        victim = min(before)
        os.kill(victim, signal.SIGSTOP)
        deadline = time.monotonic() + 120
        while len(running.pids() - {victim}) < COUNT:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        hangs = f"worker {victim} hangs and is killed\n"
        ended = f"worker {victim} was ended by SIGKILL: another one is started\n"
        assert [line for line in running.messages if str(victim) in line] == [hangs, ended]
        assert running.pids() >= before - {victim}


def test_a_replaced_encoder_file_is_never_mixed_with_the_former(
    tiny_encoder: Path, many_channel_encoder: Path, tmp_path: Path
) -> None:
    """A worker that is started anew refuses the new file and says so; the other one serves on."""
    encoder = tmp_path / "encoder.onnx"
    shutil.copy(tiny_encoder, encoder)
    digest = hashlib.sha256(encoder.read_bytes()).hexdigest()
    with serving(encoder, None) as service:
        shutil.copy(many_channel_encoder, tmp_path / "new.onnx")
        (tmp_path / "new.onnx").replace(encoder)
        killed = min(service.pids())
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not any("was replaced while the service runs" in one for one in service.messages):
            assert time.monotonic() < deadline, service.messages
            time.sleep(0.05)
        seen = {
            one.headers["lookalike-encoder"] for one in service.on_each(lambda c: c.get("/livez"))
        }
        assert seen == {digest}
        shutil.copy(tiny_encoder, tmp_path / "back.onnx")
        (tmp_path / "back.onnx").replace(encoder)
        while len(service.pids()) < COUNT:
            assert time.monotonic() < deadline + 60
            time.sleep(0.05)


@pytest.mark.parametrize("count", [1, COUNT])
def test_under_load_every_request_that_was_begun_is_answered(
    tiny_encoder: Path, collection_folder: Path, count: int
) -> None:
    """SIGTERM while 16 clients send without a pause.

    What counts as begun is what the service says of itself: a line of its log for each request. A
    connection that nobody has taken by then is closed, which the log knows nothing of.
    """
    file = io.BytesIO()
    Image.linear_gradient("L").resize((300, 300)).convert("RGB").save(file, "JPEG")
    files = [("images", file.getvalue())] * 4
    answers: list[list[int]] = [[] for _ in range(16)]

    def send(answered: list[int]) -> None:
        with contextlib.suppress(httpx.TransportError):
            while True:
                with httpx.Client(base_url=running.url, timeout=60) as client:
                    answer = client.post("/embed", files=files)
                    answered.append(len(answer.json()["embeddings"]))

    with (
        serving(tiny_encoder, collection_folder, count, LOOKALIKE_ACCESS_LOG="1") as running,
        ThreadPoolExecutor(16) as clients,
    ):
        sent = [clients.submit(send, answered) for answered in answers]
        while not all(answers):
            assert not any(one.done() for one in sent)
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        for one in sent:
            one.result(30)
    log = [json.loads(line) for line in running.messages]
    assert {(line["route"], line["status"]) for line in log} == {("/embed", 200)}
    assert len(log) == sum(map(len, answers)) >= 16
    assert {images for answered in answers for images in answered} == {4}


def test_workers_end_where_the_parent_is_killed_and_leave_nothing(
    tiny_encoder: Path, collection_folder: Path, tmp_path: Path
) -> None:
    with serving(tiny_encoder, collection_folder, TMPDIR=str(tmp_path)) as running:
        assert len(list(tmp_path.glob("lookalike-*"))) == 1
        pids = running.pids()
        running.process.kill()
        running.process.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not list(tmp_path.glob("lookalike-*"))


def test_what_is_wrong_is_said_once_and_nothing_is_started(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="there is no collection at"):
        serve(tiny_encoder, tmp_path / "none", port=0, workers=COUNT)
    create_collection(tmp_path / "foreign", "0" * 64, 24).close()
    with pytest.raises(ArtifactError, match="was made with the encoder"):
        serve(tiny_encoder, tmp_path / "foreign", port=0, workers=COUNT)


def test_a_bento_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_WORKERS", "2")
    with pytest.raises(UsageError, match="lookalike serve --workers, or several replicas"):
        read_environment()
