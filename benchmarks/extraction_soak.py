"""Extraction for hours, in minutes: does memory stay flat, and does every kill leave all as it was?

    python -m benchmarks.extraction_soak --keys 1000000
    python -m benchmarks.extraction_soak --kills 100 --images 20000
    python -m benchmarks.extraction_soak --short

The first makes a tar of so many small images and watches the resident memory of
`lookalike extract` over it. The second kills extractions with SIGKILL at random times and continues
them: half of them with --resume, half with --update --npy --into COLLECTION, where the source
changes each time one is through. Whenever one is through, every good key must be in the shards
exactly once with the vector of an unbroken run, within 1e-6, and every bad key once in the errors
tables; likewise in the array and in the collection. The third does a little of both. At the end
stands one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.soak import resident
from benchmarks.tiny_encoder import write_tiny_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SIDE = 16  # px
BAD_EVERY = 97
SHARD_ITEMS = 128  # small, so that kills meet every step of many shards
KILLS_OF_A_RUN = 10  # then it may come through, so that its source can change
MOST_RESIDENT = 2 * 2**30
TOLERANCE = 1e-6

CHILD = """
import sys
from contextlib import ExitStack
from export.encoder_file.encoder_file import open_encoder
from images.sources.sources import open_source
from serving.collection import open_collection
from serving.extraction.extract import extract

encoder, source, out, mode, collection = sys.argv[1:6]
with ExitStack() as stack:
    more = {"resume": True}
    if mode == "update":
        into = stack.enter_context(open_collection(collection, load_index=False))
        more = {"update": True, "npy": True, "into": into}
    opened = open_encoder(encoder, threads=1)
    print("begun", flush=True)
    extract(opened, open_source(source), out, shard_items=int(sys.argv[6]), **more)
"""


def image(seed: int) -> bytes:
    """Return a small PNG, another one for each seed."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


# Memory


def write_tar(path: Path, keys: int) -> None:
    """Write a tar of so many members, a hundred images over and over."""
    pool = [image(seed) for seed in range(100)]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(keys):
            data = pool[number % len(pool)]
            info = tarfile.TarInfo(f"photos/{number // 1000:04}/{number:07}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            archive.members.clear()  # type: ignore[attr-defined]


def watch_memory(folder: Path, keys: int) -> dict[str, object]:
    """Extract the tar and note the resident memory all along."""
    archive, encoder = folder / "photos.tar", folder / "encoder.onnx"
    write_tar(archive, keys)
    write_tiny_encoder(encoder, SIDE)
    command = [sys.executable, "-m", "lookalike", "extract", encoder, archive]
    out = folder / "features"
    start = time.monotonic()
    samples: list[tuple[float, int]] = []
    begun = None
    with subprocess.Popen([*map(str, command), "--out", str(out)], stderr=subprocess.DEVNULL) as it:
        while it.poll() is None:
            try:
                samples.append((time.monotonic() - start, resident(it.pid)))
            except ProcessLookupError:  # it has just ended
                break
            if begun is None and (out / "manifest.json").exists():
                begun = time.monotonic() - start
            time.sleep(0.2)
    seconds = time.monotonic() - start
    rows = json.loads((out / "manifest.json").read_text())["rows"]
    peak = max(size for _, size in samples)
    tenths = [samples[len(samples) * tenth // 10][1] // 1024 for tenth in range(10)]
    return {
        "keys": keys,
        "rows": rows,
        "exit_code": it.returncode,
        "seconds": round(seconds, 1),
        "listing_seconds": round(begun or 0, 1),
        "images_per_second": round(keys / (seconds - (begun or 0)), 1),
        "resident_mib_peak": round(peak / 1024, 1),
        "resident_mib_tenths": [*tenths, samples[-1][1] // 1024],
        "passed": rows == keys and peak * 1024 < MOST_RESIDENT and it.returncode == 0,
    }


# Kills


class Ordeal:
    """A source, a folder of features and a collection, and what happens to them."""

    def __init__(self, folder: Path, images: int, rng: random.Random) -> None:
        from serving.collection import create_collection

        self.folder, self.rng = folder, rng
        self.source, self.encoder = folder / "photos", folder / "encoder.onnx"
        self.shop = folder / "shop"
        self.kills = self.through = self.fresh = 0
        self.source.mkdir(parents=True)
        for number in range(images):
            self.write(number, number)
        write_tiny_encoder(self.encoder, SIDE)
        from export.encoder_file.encoder_file import open_encoder

        opened = open_encoder(self.encoder, threads=1)
        create_collection(self.shop, opened.digest, opened.embedding_dim).close()

    def write(self, number: int, seed: int) -> None:
        """Write an image; each BAD_EVERY-th is not an image."""
        data = b"not an image" if seed % BAD_EVERY == 5 else image(seed)
        (self.source / f"{number:06}.png").write_bytes(data)

    def change(self) -> None:
        """Change, delete and add a twentieth of the images each."""
        files = sorted(self.source.iterdir())
        some = self.rng.sample(files, len(files) // 10)
        for file in some[::2]:
            file.unlink()
        highest = int(files[-1].stem)
        for file in some[1::2]:
            self.write(int(file.stem), self.rng.randrange(10**6, 10**9))
        for number in range(len(some) // 2):
            self.write(highest + 1 + number, self.rng.randrange(10**6, 10**9))

    def unbroken(self) -> Path:
        """Return the features of an extraction that nobody disturbs."""
        from export.encoder_file.encoder_file import open_encoder
        from images.sources.sources import open_source
        from serving.extraction.extract import extract

        self.fresh += 1
        out = self.folder / f"unbroken-{self.fresh}"
        extract(open_encoder(self.encoder, threads=1), open_source(self.source), out)
        return out

    def run(self, out: Path, mode: str, kills: int) -> None:
        """Extract into a folder until it is through; kill it up to so many times."""
        seconds = 2.0  # a guess, until one has been through
        command = [sys.executable, "-c", CHILD]
        arguments = [str(self.encoder), str(self.source), str(out), mode, str(self.shop)]
        arguments.append(str(SHARD_ITEMS))
        for left in range(kills, -1, -1):
            with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE) as it:
                assert it.stdout is not None
                it.stdout.readline()  # it is begun, or has failed
                try:
                    it.wait(self.rng.uniform(0, seconds) if left else None)
                except subprocess.TimeoutExpired:
                    it.kill()
            if it.returncode == 0:
                return
            if it.returncode != -signal.SIGKILL:
                raise SystemExit(f"an extraction failed with code {it.returncode}")
            self.kills += 1

    def check(self, out: Path, mode: str) -> None:
        """Compare with an unbroken run; raises AssertionError."""
        expected, bad = content(self.unbroken())
        rows, errors = content(out)
        same(rows, expected)
        assert sorted(errors) == sorted(bad), "other images are refused"
        if mode == "update":
            array = np.load(out / "embeddings.npy", mmap_mode="r")
            keys = pq.read_table(out / "keys.parquet").column("key").to_pylist()
            same(list(zip(keys, array, strict=True)), expected)
            same(list(collected(self.shop)), expected)
        self.through += 1


def content(out: Path) -> tuple[list[tuple[str, NDArray[np.float32]]], list[str]]:
    """Return keys and vectors of all rows of the named shards, and keys of the errors tables."""
    from serving.features.reader import open_features

    features = open_features(out)
    assert features.manifest.complete, "it is not complete"
    rows = [row for block in features.blocks()
            for row in zip(block.keys, block.embeddings, strict=True)]  # fmt: skip
    there = {str(path.relative_to(out)) for path in out.glob("*/*.parquet")}
    named = {table.file for shard in features.manifest.shards for table in shard.tables}
    assert there == named, "there are files that the manifest does not name"
    return rows, [entry.key for entry in features.errors()]


def collected(shop: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield keys and vectors of a collection."""
    from serving.collection import open_collection

    with open_collection(shop, load_index=False) as collection:
        after = None
        while page := collection.items(after=after, limit=1000):
            yield from ((item.key, np.asarray(item.vector, np.float32)) for item in page)
            after = page[-1].key


def same(
    rows: list[tuple[str, NDArray[np.float32]]], expected: list[tuple[str, NDArray[np.float32]]]
) -> None:
    """Assert that each key is once in both, with the same vector."""
    ours, theirs = dict(rows), dict(expected)
    assert len(ours) == len(rows), "a key is there twice"
    assert ours.keys() == theirs.keys(), "other keys are there"
    worst = max(float(np.abs(ours[key] - theirs[key]).max()) for key in theirs)
    assert worst <= TOLERANCE, f"a vector is off by {worst}"


def survive_kills(folder: Path, images: int, kills: int, seed: int) -> dict[str, object]:
    """Kill and continue until there have been so many kills."""
    start, by_mode = time.monotonic(), {}
    for mode in ("resume", "update"):
        ordeal = Ordeal(folder / mode, images, random.Random(seed))
        out = ordeal.folder / "features-0"
        while ordeal.kills < kills // 2:
            ordeal.run(out, mode, min(KILLS_OF_A_RUN, kills // 2 - ordeal.kills))
            ordeal.check(out, mode)
            if mode == "update":
                ordeal.change()
            else:
                out = ordeal.folder / f"features-{ordeal.through}"
        by_mode[mode] = {"kills": ordeal.kills, "through": ordeal.through}
    seconds = round(time.monotonic() - start, 1)
    return {"images": images, **by_mode, "seconds": seconds, "passed": True}


def main() -> None:
    """Do what is asked for and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, help="members of the tar")
    parser.add_argument("--kills", type=int, help="how often to kill")
    parser.add_argument("--images", type=int, default=20_000, help="of the source that is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="100,000 keys, 10 kills of 2,000")
    options = parser.parse_args()
    if options.short:
        options.keys, options.kills, options.images = 100_000, 10, 2_000
    if not (options.keys or options.kills):
        parser.error("give --keys, --kills or --short")
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        if options.keys:
            result["memory"] = watch_memory(Path(name), options.keys)
        if options.kills:
            kills = survive_kills(Path(name), options.images, options.kills, options.seed)
            result["kills"] = kills
    print(json.dumps(result))
    sys.exit(not all(outcome["passed"] for outcome in result.values()))  # type: ignore[index]


if __name__ == "__main__":
    main()
