"""Spans cost more than the rest of an answer: there are none unless somebody wants traces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import Tracer

from serving.http.routes.service import traced
from tests.serving.http.conftest import Running


def test_no_span_is_made_where_nobody_asked_for_traces(
    service: Running, image_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[object] = []
    make = Tracer.start_span

    def counted(self: Tracer, *args: object, **options: object) -> object:
        spans.append(args)
        return make(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracer, "start_span", counted)
    answer = service.client.post("/embed", files={"images": image_bytes})
    assert answer.status_code == 200
    assert not spans


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"BENTOML_CONFIG_OPTIONS": "api_server.http.port=1"}, False),
        ({"BENTOML_CONFIG_OPTIONS": "tracing.sample_rate=1.0"}, True),
        ({"BENTOML_CONFIG": "bento.yaml"}, True),
    ],
)
def test_traces_stay_possible(environ: dict[str, str], expected: bool) -> None:
    assert traced(environ) is expected


PROGRAM = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serving.http.engine.lifecycle import Lifecycle
from serving.http.routes.service import make_service
from serving.http.policy.settings import Settings

kept = InMemorySpanExporter()
BentoMLContainer.tracer_provider.get().add_span_processor(SimpleSpanProcessor(kept))
settings = Settings(encoder=Path(sys.argv[1]), insecure=True)
with TestClient(make_service(Lifecycle(lambda: settings)).to_asgi()) as client:
    for path in sys.argv[3:]:
        client.get(path, headers={"traceparent": sys.argv[2]})
for span in kept.get_finished_spans():
    if span.kind.name == "SERVER":
        print(f"{span.context.trace_id:032x}", span.name, span.attributes["http.status_code"])
"""


def test_a_service_that_was_asked_for_traces_makes_them(tiny_encoder: Path) -> None:
    """Of BentoML's own routes and ours, as part of the trace that the client has begun."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", PROGRAM, str(tiny_encoder)),
            *(f"00-{trace}-b7ad6b7169203331-01", "/v1/models", "/items", "/livez"),
        ],
        env={**os.environ, "BENTOML_CONFIG_OPTIONS": "tracing.sample_rate=1.0"},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"{trace} GET /v1/models 200",
        f"{trace} GET /items 404",
        f"{trace} GET /livez 200",
    ]
