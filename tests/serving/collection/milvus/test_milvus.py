"""What only a collection in Milvus can get wrong: connections, failures, limits, expressions."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import ArtifactError, LookalikeError, UsageError
from serving.collection import CollectionBusy, Record, create_collection, open_collection
from serving.collection.milvus.expressions import bounds_of, condition, facts_of, terms_of
from tests.serving.collection.contract.test_filters import meets

DIGEST, DIM = "ab" * 32, 8
SECRET = "a-secret-token"

pymilvus = pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")
import grpc  # noqa: E402 - comes with pymilvus

# Expressions

TEXTS = st.text(max_size=12) | st.sampled_from(['" or id != ""', "{x}", "%_\\", "]", "'" * 3])
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
METADATA = st.dictionaries(TEXTS, VALUES | TEXTS | st.lists(VALUES | TEXTS, max_size=4), max_size=3)


@st.composite
def asked_of(draw: st.DrawFn) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """An item's label and metadata, and a filter over its names and values, and others."""
    label, metadata = draw(st.none() | TEXTS), draw(METADATA)
    one = metadata.get(draw(st.sampled_from([*metadata, "none"])), 1)
    value = draw(st.sampled_from(one) if isinstance(one, list) and one else VALUES | TEXTS)
    name = draw(st.sampled_from([*metadata, "none"]))
    tests: list[Any] = [value, {"$ne": value}, {"$in": [value]}]
    if isinstance(value, str):
        tests += [{"$prefix": value[: len(value) // 2]}]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        tests += [{order: value} for order in ("$gt", "$gte", "$lt", "$lte")]
    if name == "label":
        return label, metadata, {"label": label}
    expected = {name: draw(st.sampled_from(tests))}
    return label, metadata, draw(st.sampled_from([expected, {"$not": expected}]))


@settings(max_examples=300, deadline=None)
@given(asked_of())
def test_no_text_of_a_user_is_in_an_expression(
    asked: tuple[str | None, dict[str, Any], dict[str, Any]],
) -> None:
    label, metadata, expected = asked
    made = condition(expected)
    quoted = re.findall(r'"([^"]*)"', made.expression)
    assert all(re.fullmatch(r"[0-9a-gz]*", text) for text in quoted)
    rest = re.sub(r'"[^"]*"', "", made.expression)
    words = r"array_contains(_any)?|terms|bounds|not|and|or|id|[-+.0-9e]+|[()\[\],<>=!\s]"
    assert re.sub(words, "", rest) == ""
    assert made.holds(facts_of(label, metadata)) == meets(label, metadata, expected)
    assert len(json.dumps(bounds_of(label, metadata))) < 60_000
    assert all(len(term) == 24 for term in terms_of(label, metadata))


def test_numbers_between_two_floats_are_compared_exactly(milvus: str) -> None:
    numbers = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2.0**53, -(2**53) - 1, 10**400, 0.1]
    with create_collection(milvus, DIGEST, 1) as collection:
        collection.add(
            Record(str(location), [1.0], "", metadata={"n": number})
            for location, number in enumerate(numbers)
        )
        for expected in (2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 0.1, 1e300):
            for order in ("$gt", "$gte", "$lt", "$lte"):
                (hits,) = collection.search([[1.0]], 10, filter={"n": {order: expected}})
                assert [hit.key for hit in hits] == [
                    str(location)
                    for location, number in enumerate(numbers)
                    if meets(None, {"n": number}, {"n": {order: expected}})
                ]


def test_what_milvus_cannot_judge_has_a_bound(milvus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.collection.milvus.judging.MOST_JUDGED", 20)
    with create_collection(milvus, DIGEST, 1) as collection:
        collection.add(
            Record(f"{number:02}", [1.0], "", metadata={"t": ["a", f"b{number}", "c"]})
            for number in range(30)
        )
        asked = {"t": {"$prefix": "b1"}}
        with pytest.raises(UsageError, match="more than 20 items"):
            collection.search([[1.0]], 30, filter=asked)
        collection.remove([f"{number:02}" for number in range(20, 30)])
        (hits,) = collection.search([[1.0]], 30, filter=asked)
        assert [hit.key for hit in hits] == ["01", *(str(number) for number in range(10, 20))]


# Searching


def test_ties_reach_beyond_what_was_asked_for_first(milvus: str) -> None:
    with create_collection(milvus, DIGEST, 2) as collection:
        collection.add(Record(f"{999 - number}", [1.0, 0.0], "") for number in range(700))
        collection.add([Record("other", [0.0, 1.0], "")])
        (hits,) = collection.search([[1.0, 0.0]], 5)
        assert [hit.key for hit in hits] == ["300", "301", "302", "303", "304"]


def test_exact_searches_compare_everything(milvus: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((2500, DIM)).astype(np.float32)
    with create_collection(milvus, DIGEST, DIM) as collection:
        collection.add(Record(f"{row:04}", vector, "") for row, vector in enumerate(vectors))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        found = collection.search(vectors[:3], 7, exact=True, filter={"label": None})
        for query, hits in zip(unit[:3], found, strict=True):
            best = np.argsort(-(unit @ query), kind="stable")[:7]
            assert [hit.key for hit in hits] == [f"{row:04}" for row in best]


def test_the_index_and_its_effort_are_milvus_own(milvus: str) -> None:
    with create_collection(milvus, DIGEST, DIM) as collection:
        index = collection.stats()["index"]
        assert index == {"kind": "hnsw", "exact": False, "search": {"ef": 128}}
    with create_collection(f"{milvus}_flat", DIGEST, DIM, recall=1) as collection:
        index = collection.stats()["index"]
        assert index == {"kind": "flat", "exact": True, "search": {}}
        with pytest.raises(UsageError, match="at most 16384"):
            collection.search([[1.0] * DIM], 16_385)


# Writing


def test_a_failure_in_the_middle_says_what_is_in(
    milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.collection.milvus.collection.BYTES_AT_ONCE", 6_000)
    records = [Record(f"{number:03}", [1.0] * DIM, "") for number in range(100)]
    calls = []

    def failing(self: Any, *arguments: Any, data: Any, **named: Any) -> Any:
        calls.append(len(data))
        if len(calls) == 3:
            raise pymilvus.MilvusException(message="the disk is full")
        return upsert(self, *arguments, data=data, **named)

    upsert = pymilvus.MilvusClient.upsert
    with create_collection(milvus, DIGEST, DIM) as collection:
        with monkeypatch.context() as patch:
            patch.setattr(pymilvus.MilvusClient, "upsert", failing)
            with pytest.raises(LookalikeError, match="disk is full") as failed:
                collection.add(records)
        done = sum(calls[:2])
        assert f"{done} of 100 items" in str(failed.value)
        assert len(collection) == done
        report = collection.add(records, on_duplicate="replace")
        assert (report.added, report.unchanged) == (100 - done, done)
        assert len(collection) == 100


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"uri": "x" * 70_000}, "uri has 70000 bytes"),
        ({"uri": "", "label": "é" * 40_000}, "label has 80000 bytes"),
        ({"uri": "", "metadata": {"t": "x" * 70_000}}, "metadata has"),
        ({"uri": "", "metadata": {"t": list(range(5000))}}, "its metadata has too many"),
        ({"uri": "", "sha256": "x" * 2000}, "sha256 has"),
    ],
)
def test_what_is_too_large_for_milvus_is_refused(
    milvus: str, fields: dict[str, Any], words: str
) -> None:
    with create_collection(milvus, DIGEST, DIM) as collection:
        with pytest.raises(UsageError, match=f"item 'big': {words}"):
            collection.add([Record("fine", [1.0] * DIM, ""), Record("big", [1.0] * DIM, **fields)])
        assert len(collection) == 0


def test_the_longest_keys_fit(milvus: str) -> None:
    keys = sorted(["k" * 1024, "é" * 512, "😀" * 256])
    with create_collection(milvus, DIGEST, DIM) as collection:
        collection.add(Record(key, [1.0] * DIM, "u" * 65_535) for key in keys)
        assert collection.keys() == keys
        assert collection.remove(keys) == keys


# Connecting


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TIMEOUT", "1")
    monkeypatch.setenv("MILVUS_TOKEN", SECRET)
    with pytest.raises(LookalikeError, match=r"milvus://127\.0\.0\.1:1/shop.*MILVUS_TOKEN") as away:
        open_collection("milvus://127.0.0.1:1/shop")
    assert SECRET not in str(away.value)


@pytest.mark.parametrize(
    ("environment", "location", "words"),
    [
        ({"MILVUS_TIMEOUT": "soon"}, "milvus://h/x", "MILVUS_TIMEOUT is 'soon'"),
        ({"MILVUS_USER": "me"}, "milvus://h/x", "MILVUS_PASSWORD"),
        ({"MILVUS_CA_FILE": "/none.pem"}, "milvus+tls://h/x", "no such file"),
        ({"MILVUS_CA_FILE": __file__}, "milvus://h/x", "milvus\\+tls"),
    ],
)
def test_unusable_environments_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], location: str, words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        open_collection(location)


def test_without_pymilvus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UsageError, match=r"lookalike\[milvus\]"):
        open_collection("milvus://h/x")


def test_what_is_not_there_or_not_ours_is_refused(milvus: str, tmp_path: Path) -> None:
    for missing in (milvus, f"milvus+file:{tmp_path / 'none.db'}#x"):
        with pytest.raises(UsageError, match="lookalike collection create"):
            open_collection(missing)
    assert list(tmp_path.iterdir()) == []
    create_collection(milvus, DIGEST, DIM).close()
    with pytest.raises(UsageError, match="is there already"):
        create_collection(milvus, DIGEST, DIM)
    with pytest.raises(UsageError, match="no folder"):
        create_collection(f"milvus+file:{tmp_path / 'no/x.db'}#x", DIGEST, DIM)
    file, _, name = milvus.removeprefix("milvus+file:").rpartition("#")
    client = pymilvus.MilvusClient(file)
    client.create_collection(f"{name}_foreign", dimension=4)
    client.close()
    with pytest.raises(ArtifactError, match="not a collection of Lookalike's"):
        open_collection(f"{milvus}_foreign")


HOLD = """
import sys
from serving.collection import create_collection
with create_collection(sys.argv[1], "0" * 64, 8):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_for_one_process_and_free_when_closed(tmp_path: Path) -> None:
    location = f"milvus+file:{tmp_path / 'x.db'}#shop"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, location], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(CollectionBusy, match="one process at a time"):
            open_collection(location)
        other.stdin.close()
        assert other.wait(30) == 0
    with open_collection(location) as first, open_collection(location) as second:
        first.add([Record("a", [1.0] * DIM, "")])
        first.close()
        assert second.keys() == ["a"]


class TokenAsked(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers only calls that carry the token, as a Milvus with authorization does."""

    def __init__(self, token: str) -> None:
        import base64

        self.expected = base64.b64encode(token.encode()).decode()

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        if dict(call.invocation_metadata).get("authorization") == self.expected:
            return continuation(call)

        def refuse(_: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

        return grpc.unary_unary_rpc_method_handler(refuse)


@contextmanager
def secure_server(folder: Path, token: str) -> Iterator[int]:
    """A server over TLS that asks for a token; its certificate is in the folder."""
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from milvus_lite.db import MilvusLite
    from pymilvus.grpc_gen.milvus_pb2_grpc import add_MilvusServiceServicer_to_server

    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        [*command, "-nodes", "-days", "2", *names, *files],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    key, certificate = (folder / name for name in ("key.pem", "cert.pem"))
    database = MilvusLite(str(folder / "server.db"))
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[TokenAsked(token)])
        add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
        pair = (key.read_bytes(), certificate.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()
            database.close()


def test_tokens_and_certificates_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secure_server(tmp_path, SECRET) as port:
        location = f"milvus+tls://localhost:{port}/shop?ef=300"
        monkeypatch.setenv("MILVUS_CA_FILE", str(tmp_path / "cert.pem"))
        monkeypatch.setenv("MILVUS_TIMEOUT", "2")
        with pytest.raises(LookalikeError, match="MILVUS_TOKEN"):
            create_collection(location, DIGEST, DIM)
        monkeypatch.setenv("MILVUS_TOKEN", SECRET)
        with create_collection(location, DIGEST, DIM) as collection:
            collection.add([Record("a", [1.0] * DIM, "")])
            assert collection.search([[1.0] * DIM], 3)[0][0].key == "a"
            assert collection.stats()["index"]["search"] == {"ef": 300}
            assert SECRET not in json.dumps(collection.stats())
