"""Runs of an extraction, changes of a source, and what must hold afterwards."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.encoder_file.encoder_file import Encoder
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.extraction.report import ExtractReport
from serving.features.reader import Features, open_features

SHARD = 8  # items of a shard: 43 items make 6 shards


def run(encoder: Encoder, source: Path, out: Path, **options: object) -> ExtractReport:
    """Extract a folder or list, in shards of `SHARD` items."""
    defaults: dict[str, object] = {"batch_size": 3, "shard_items": SHARD}
    options = defaults | options
    return extract(encoder, open_source(source), out, **options)  # type: ignore[arg-type]


def update(encoder: Encoder, source: Path, out: Path, **options: object) -> ExtractReport:
    """Extract with `update`, where the folder is new too."""
    return run(encoder, source, out, update=True, **options)


def vectors(features: Features) -> dict[str, NDArray[np.float32]]:
    """Return the embedding of each key; no key stands twice."""
    rows: dict[str, NDArray[np.float32]] = {}
    for block in features.blocks():
        for key, vector in zip(block.keys, block.embeddings, strict=True):
            assert key not in rows
            rows[key] = vector
    return rows


def check_same(features: Features, unbroken: Features) -> None:
    """Check for the same manifest, and so the same bytes in every file."""
    assert features.manifest.to_dict() == unbroken.manifest.to_dict()
    assert all(features.is_whole(shard) for shard in features.manifest.shards)
    left = sorted(path.name for path in features.path.rglob("*") if path.name.endswith(".tmp"))
    assert left == []


def check_is_as_new(encoder: Encoder, source: Path, out: Path, fresh: Path) -> Features:
    """Check that the folder holds what a new extraction would: each key in one of the tables."""
    shutil.rmtree(fresh, ignore_errors=True)
    update(encoder, source, fresh)
    features, new = open_features(out), open_features(fresh)
    assert features.manifest.complete
    assert features.manifest.source.items == new.manifest.source.items
    ours, theirs = vectors(features), vectors(new)
    assert ours.keys() == theirs.keys()
    for key, vector in theirs.items():
        np.testing.assert_allclose(ours[key], vector, atol=1e-6)
    errors = sorted((entry.key, entry.reason) for entry in features.errors())
    assert errors == sorted((entry.key, entry.reason) for entry in new.errors())
    named = {table.file for shard in features.manifest.shards for table in shard.tables}
    there = {str(path.relative_to(out)) for path in out.glob("*/*")}
    assert there == named  # nothing of before is left
    return features


def image(value: int) -> bytes:
    """Return a PNG file; each value gives another picture."""
    buffer = io.BytesIO()
    grid = np.arange(48 * 48 * 3).reshape(48, 48, 3)
    Image.fromarray(((grid * (value + 3)) % 251).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def change(folder: Path) -> set[str]:
    """Make every sort of change; return the keys that must be read to know what they are now."""
    (folder / "discs/01.png").write_bytes(image(1))
    (folder / "ramps/05-empty.png").write_bytes(image(2))  # was refused
    os.utime(folder / "squares/03.png", ns=(1, 1))  # the same content
    (folder / "ramps/00.jpg").write_bytes(b"no longer a picture")
    (folder / "discs/02.jpg").unlink()
    (folder / "stripes/99-cut.jpg").unlink()
    for number in range(11):
        (folder / f"aaa-{number:02}.png").write_bytes(image(10 + number))
    changed = {"discs/01.png", "ramps/05-empty.png", "squares/03.png", "ramps/00.jpg"}
    return changed | {f"aaa-{number:02}.png" for number in range(11)}


def interrupt_in_third_shard(done: int, _total: int) -> None:
    """Interrupt the run, as a function to call with its progress."""
    if done > 2 * SHARD:
        raise KeyboardInterrupt


DIE_IN = """
import os, signal

def die_in(owner, name, left, *, after, counts=lambda *arguments: True):
    '''Kill this process at the call number `left`, which all such functions count down together.'''
    original = getattr(owner, name)
    def wrapped(*arguments, **options):
        left[0] -= counts(*arguments)
        result = original(*arguments, **options) if after or left[0] >= 0 else None
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapped)
"""
