"""Small feature folders, and changes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from base.files import sha256_file
from serving.embedding.results import EmbeddedImage

ENCODER, PREPROCESS = "ab" * 32, "cd" * 32


def embedded(number: int) -> EmbeddedImage:
    """Return an image with an embedding of three dimensions, another one for each number."""
    angle = np.float32(number)
    vector = np.array([np.cos(angle), np.sin(angle), 0], np.float32)
    label = None if number % 2 else "été"
    return EmbeddedImage(f"k{number}", f"/p/k{number}", label, 640, 480 + number, "ef" * 32, vector)


def make_version_1(folder: Path) -> None:
    """Turn a folder into what version 1 wrote."""
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format_version": 1}
    for name in ("dtype", "thumbnails", "updates", "updating", "arrays", "deleted"):
        del manifest[name]
    for shard in manifest["shards"]:
        del shard["deleted"], shard["thumbnails"]
        for entry in (shard, shard["errors"]):
            table = pq.read_table(folder / entry["file"]).drop_columns(["stamp"])
            labels = [name for name in table.column_names if name == "label"]
            pq.write_table(table, folder / entry["file"], compression="zstd", use_dictionary=labels)
            entry["sha256"] = sha256_file(folder / entry["file"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
