"""Spans cost more than the rest of an answer: there are none unless somebody wants traces."""

import pytest
from opentelemetry.sdk.trace import Tracer

from serving.http.service import traced
from tests.serving.http.conftest import Running


def test_no_span_is_made_where_nobody_asked_for_traces(
    service: Running, picture_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[object] = []
    make = Tracer.start_span

    def counted(self: Tracer, *args: object, **options: object) -> object:
        spans.append(args)
        return make(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracer, "start_span", counted)
    answer = service.client.post("/embed", files={"images": picture_bytes})
    assert answer.status_code == 200
    assert not spans


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"BENTOML_CONFIG_OPTIONS": "api_server.http.port=1"}, False),
        ({"BENTOML_CONFIG_OPTIONS": "tracing.sample_rate=1.0"}, True),
        ({"BENTOML_CONFIG": "bento.yaml"}, True),
    ],
)
def test_traces_stay_possible(environ: dict[str, str], wanted: bool) -> None:
    assert traced(environ) is wanted
