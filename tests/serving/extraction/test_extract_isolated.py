"""`extract --isolate`: an image whose decoder dies costs that image, and is named."""

import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from export.encoder_file.encoder_file import Encoder
from images.pixels import isolated
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.features.reader import open_features

DIES = """
    import os, signal
    from images.pixels import decode_worker, preprocess

    original = preprocess.load_image

    def hooked(content, spec):
        if content.startswith(b"die"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return original(content, spec)

    preprocess.load_image = hooked
    decode_worker.main()
"""


def test_only_the_image_that_kills_its_decoder_is_lost(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(encoder, open_source(mixed_folder), tmp_path / "plain")
    for name in ("discs/03.png", "ramps/00.jpg"):
        (mixed_folder / name).write_bytes(b"die")
    command = [sys.executable, "-c", textwrap.dedent(DIES)]
    hostile = partial(isolated.Isolated, command=command)
    monkeypatch.setattr("serving.extraction.extract.Isolated", hostile)
    report = extract(encoder, open_source(mixed_folder), tmp_path / "out", isolate=True)
    assert (report.rows, report.refused) == (38, 5)
    plain, separate = (open_features(tmp_path / name) for name in ("plain", "out"))
    lost = {entry.key: (entry.stage, entry.reason) for entry in separate.errors()}
    assert lost["discs/03.png"] == lost["ramps/00.jpg"] == ("decode", "crashed")
    assert {entry.key for entry in plain.errors()} < lost.keys()
    expected = {key: vector.tobytes() for block in plain.blocks()
                for key, vector in zip(block.keys, block.embeddings, strict=True)}  # fmt: skip
    vectors = {key: vector.tobytes() for block in separate.blocks()
             for key, vector in zip(block.keys, block.embeddings, strict=True)}  # fmt: skip
    assert {key: expected[key] for key in vectors} == vectors
