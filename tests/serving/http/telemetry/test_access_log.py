"""What an answer and the log say about a request."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.http.engine.batcher import useful_batch
from serving.http.policy.settings import Settings
from serving.http.telemetry import access_log
from tests.serving.http.conftest import Running, started


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, logger = Kept(), access_log.logger
    before = logger.level, logger.propagate
    logger.addHandler(handler)  # `switch_on` adds none where there is one
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def test_one_line_a_request(tiny_encoder: Path, image_bytes: bytes, kept: Kept) -> None:
    with started(Settings(encoder=tiny_encoder, access_log=True)) as running:
        headers = {"X-Request-ID": "mine-1"}
        answer = running.client.post("/embed", files={"images": image_bytes}, headers=headers)
        running.client.get("/items/secret-key")
    lines = [json.loads(line) for line in kept.lines]
    (embedded,) = (line for line in lines if line["id"] == "mine-1")
    (refused,) = (line for line in lines if line["refused"] == "no-collection")
    assert (embedded["route"], embedded["status"]) == ("/embed", 200)
    assert embedded["timing"] == answer.headers["Server-Timing"]
    assert refused["route"] == "/items/{key}"
    assert not any("secret-key" in line for line in kept.lines)


def test_no_lines_unless_asked_for(service: Running, kept: Kept) -> None:
    service.client.get("/status")
    assert kept.lines == []


def test_server_timing_and_the_encoder(service: Running, image_bytes: bytes) -> None:
    searched = service.client.post("/search", files={"image": image_bytes})
    stages = re.findall(r"(\w+);dur=[\d.]+", searched.headers["Server-Timing"])
    assert stages == ["queue", "decode", "inference", "search"]
    listed = service.client.get("/items")
    assert "Server-Timing" not in listed.headers
    for answer in (searched, listed, service.client.get("/nowhere")):
        assert answer.headers["Lookalike-Encoder"] == service.runtime.encoder.digest


def test_the_useful_batch() -> None:
    assert useful_batch({1: 0.10, 2: 0.15, 4: 0.24, 8: 0.48, 16: 1.0}) == 4
    assert useful_batch({1: 0.200, 2: 0.400, 4: 0.800}) == 1
    assert useful_batch({32: 0.1}) == 32
    assert useful_batch({1: 0.203, 8: 1.6}) == 1  # nearly as fast: the shorter wait wins
    assert useful_batch({1: 0.010, 2: 0.020, 4: 0.040, 8: 0.080}) == 8  # handling is shared
