"""The pipeline from items to embeddings: order, bad images, back-pressure, leaving early."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from base.errors import ImageRefused, LookalikeError, RefusalReason
from base.files import sha256_bytes
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Content, Item, RefusedImage
from images.pixels.preprocess import load_image
from images.sources.sources import open_source
from serving.embedding.embed import FIRST_PIECES, LOOKAHEAD, MOST_PIECES, Seconds, embed, in_batches
from serving.embedding.results import EmbeddedImage, Outcome


@pytest.fixture(scope="module", params=[1, 2], ids=["per-core", "shared"])
def encoder(request: pytest.FixtureRequest, tiny_encoder: Path) -> Encoder:
    """A session of one thread, which each core calls; one of two, which takes batch after batch."""
    return open_encoder(tiny_encoder, provider="cpu", threads=request.param)


def run(encoder: Encoder, items: list[Item], size: int = 7, threads: int = 3) -> list[Outcome]:
    return [
        outcome
        for batch in embed(encoder, in_batches(items, size), threads=threads)
        for outcome in batch
    ]


def array_item(number: int, value: int = 128) -> Item:
    image = np.full((40, 40, 3), value, np.uint8)
    image[number % 40] = 255 - value
    return Item(f"k{number}", f"/{number}", None, lambda: image)


def test_each_image_gets_its_own_embedding(encoder: Encoder, mixed_folder: Path) -> None:
    """One at a time and in batches with bad images among them: the same rows."""
    items = list(open_source(mixed_folder))
    outcomes = run(encoder, items)
    assert [outcome.key for outcome in outcomes] == [item.key for item in items]
    for item, outcome in zip(items, outcomes, strict=True):
        content = item.read()
        if isinstance(outcome, RefusedImage):
            with pytest.raises(ImageRefused) as refused:
                load_image(content, encoder.preprocess)
            assert (outcome.stage, outcome.reason) == ("decode", refused.value.reason)
            continue
        pixels, (width, height) = load_image(content, encoder.preprocess)
        np.testing.assert_allclose(outcome.embedding, encoder.encode(pixels[None])[0], atol=1e-5)
        assert (outcome.width, outcome.height, outcome.label) == (width, height, item.label)
        assert isinstance(content, bytes)
        assert outcome.sha256 == sha256_bytes(content)
    assert sum(isinstance(outcome, RefusedImage) for outcome in outcomes) == 3


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (3, 2), (64, 5)])
def test_batches_and_threads_change_nothing(
    encoder: Encoder, mixed_folder: Path, size: int, threads: int
) -> None:
    items = list(open_source(mixed_folder))
    for one, other in zip(run(encoder, items), run(encoder, items, size, threads), strict=True):
        assert type(one) is type(other)
        assert one.key == other.key
        if isinstance(one, EmbeddedImage) and isinstance(other, EmbeddedImage):
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)


def test_the_digest_of_an_array_is_that_of_its_values(encoder: Encoder) -> None:
    image = np.asfortranarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))
    (outcome,) = run(encoder, [Item("a", "/a", "x", lambda: image)])
    assert isinstance(outcome, EmbeddedImage)
    assert outcome.sha256 == sha256_bytes(np.ascontiguousarray(image).tobytes())
    assert (outcome.width, outcome.height) == (50, 40)


def test_what_no_one_foresaw_refuses_one_image_only(encoder: Encoder) -> None:
    def gone() -> Content:
        raise ImageRefused(RefusalReason.UNREADABLE, "the file went away")

    def broken() -> Content:
        raise RuntimeError("a driver's fault")

    items = [
        array_item(0),
        Item("gone", "/gone", None, gone),
        Item("broken", "/broken", None, broken),
        Item("odd", "/odd", None, lambda: np.zeros((2, 2, 2, 2), np.uint8)),
        array_item(1),
    ]
    outcomes = run(encoder, items)
    assert [type(outcome) for outcome in outcomes] == [
        EmbeddedImage,
        RefusedImage,
        RefusedImage,
        RefusedImage,
        EmbeddedImage,
    ]
    refused = [outcome for outcome in outcomes if isinstance(outcome, RefusedImage)]
    assert [(entry.stage, entry.reason) for entry in refused[:2]] == [("read", "unreadable")] * 2
    assert "driver" in refused[1].message
    assert refused[2].stage == "decode"


def test_an_image_without_direction_is_refused(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of zeros or NaN would poison every search."""
    encode = encoder.encode

    def with_holes(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> object:
        rows = encode(images).copy()
        rows[1], rows[2, 3] = 0, np.nan
        return rows

    monkeypatch.setattr(encoder, "encode", with_holes)
    outcomes = run(encoder, [array_item(number) for number in range(4)])
    assert [type(outcome) for outcome in outcomes] == [
        EmbeddedImage,
        RefusedImage,
        RefusedImage,
        EmbeddedImage,
    ]
    assert {(r.stage, r.reason) for r in outcomes if isinstance(r, RefusedImage)} == {
        ("encode", "no-direction")
    }


def test_the_source_is_not_read_far_ahead(encoder: Encoder) -> None:
    listed = 0

    def endless() -> Iterator[Item]:
        nonlocal listed
        while True:
            listed += 1
            yield array_item(listed)

    outcomes = embed(encoder, in_batches(endless(), 4), threads=2)
    ahead = LOOKAHEAD if encoder.threads > 1 else 2 * FIRST_PIECES - 1
    for batches in range(1, 6):
        assert len(next(outcomes)) == 4
        assert listed == 4 * (batches + ahead)
    outcomes.close()


def test_where_reading_is_slow_more_is_read_at_once(encoder: Encoder) -> None:
    """Up to a limit: what is read waits in memory."""
    if encoder.threads > 1:
        pytest.skip("reading and decoding share threads that the encoder does not need")
    at_once, most, lock = 0, 0, threading.Lock()

    def slowly() -> Content:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1
        return np.full((40, 40, 3), 7, np.uint8)

    items = [Item(f"k{number}", "", None, slowly) for number in range(400)]
    outcomes = run(encoder, items, size=4, threads=2)
    assert [outcome.key for outcome in outcomes] == [item.key for item in items]
    assert 2 * FIRST_PIECES < most <= 2 * MOST_PIECES


def test_leaving_early_ends_the_threads(encoder: Encoder) -> None:
    before = set(threading.enumerate())
    outcomes = embed(encoder, in_batches(map(array_item, range(1000)), 4), threads=2)
    next(outcomes)
    assert set(threading.enumerate()) > before
    outcomes.close()
    assert set(threading.enumerate()) == before


def test_nothing_to_do(encoder: Encoder) -> None:
    assert list(embed(encoder, [])) == []


def test_time_is_counted_by_stage(encoder: Encoder, image_folder: Path) -> None:
    seconds = Seconds()
    list(embed(encoder, in_batches(open_source(image_folder), 8), seconds=seconds))
    assert min(seconds.read, seconds.decode, seconds.encode, seconds.listing, seconds.wait) > 0
    assert seconds.write == 0
    if encoder.threads == 1:
        spent = seconds.decode + seconds.encode + seconds.wait
        assert spent == pytest.approx(seconds.cores)
    else:
        assert seconds.cores == 0


def test_both_arrangements_give_the_same(tiny_encoder: Path, mixed_folder: Path) -> None:
    items = list(open_source(mixed_folder))
    per_core, shared = (
        run(open_encoder(tiny_encoder, provider="cpu", threads=threads), items, 32, 2)
        for threads in (1, 2)
    )
    for one, other in zip(per_core, shared, strict=True):
        assert type(one) is type(other)
        assert one.key == other.key
        if isinstance(one, EmbeddedImage) and isinstance(other, EmbeddedImage):
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)


def test_an_encoder_that_fails_ends_the_run_and_its_threads(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_images: object) -> None:
        raise LookalikeError("out of memory")

    before = set(threading.enumerate())
    monkeypatch.setattr(encoder, "encode", fail)
    with pytest.raises(LookalikeError, match="out of memory"):
        run(encoder, [array_item(number) for number in range(300)])
    assert set(threading.enumerate()) == before
