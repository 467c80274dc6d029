"""Large metadata: capped where it enters, and answers are capped with it."""

import pytest

from serving.collection import Record
from serving.http.routes import answers, items
from tests.serving.http.conftest import Running

JUST_FITS = {"text": "x" * (2**16 - len('{"text":""}'))}


def test_metadata_and_labels_are_refused_before_an_image_is_embedded(
    fresh: Running, image_bytes: bytes
) -> None:
    vector = fresh.client.get("/items?limit=1").json()["items"][0]["key"]
    stored = fresh.client.get(f"/items/{vector}?vector=true").json()["vector"]
    row = {"key": "large", "vector": stored}
    for field, value in (("metadata", {"a": "x" * 2**16}), ("label", "x" * (2**16 + 1))):
        answer = fresh.client.post("/items", json={**row, field: value})
        assert fresh.error(answer) == (422, "invalid-parameter", field)
        answer = fresh.client.post("/items", json={"items": [{**row, field: value}]})
        assert answer.status_code == 422
    embedded = fresh.runtime.metrics.total("lookalike_images_total", outcome="embedded")
    form = {"key": "large", "metadata": '{"a": "' + "x" * 2**16 + '"}'}
    answer = fresh.client.post("/items", data=form, files={"image": image_bytes})
    assert fresh.error(answer) == (422, "invalid-parameter", "metadata")
    assert fresh.runtime.metrics.total("lookalike_images_total", outcome="embedded") == embedded
    assert fresh.client.post("/items", json={**row, "metadata": JUST_FITS}).status_code == 201
    assert fresh.client.get("/items/large").json()["metadata"] == JUST_FITS


def test_pages_and_answers_are_capped(fresh: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = fresh.runtime.collection.current
    rows = [
        Record(f"large/{n:03}", [1.0] * collection.dim, "", metadata=JUST_FITS) for n in range(40)
    ]
    collection.add(rows)
    monkeypatch.setattr(items, "MAX_PAGE_BYTES", 10 * 2**16)
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 20 * 2**16)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        answer = fresh.client.get("/items", params={"limit": 1000, "after": after})
        assert len(answer.content) < 12 * 2**16
        page = answer.json()
        seen += [item["key"] for item in page["items"]]
        after = page["next"]
    assert seen == sorted(seen)
    assert len(seen) == page["count"] == len(collection)
    few = fresh.client.post("/search", json={"key": rows[0].key, "k": 10})
    assert len(few.json()["neighbours"]) == 10
    many = fresh.client.post("/search", json={"key": rows[0].key, "k": 30})
    assert fresh.error(many) == (422, "answer-too-large", "k")
