from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

from export.encoder_file.encoder_file import open_encoder

if TYPE_CHECKING:
    from pathlib import Path


def test_an_open_encoder_does_not_keep_the_bytes_of_its_file(tiny_encoder: Path) -> None:
    open_encoder(tiny_encoder)  # modules are loaded
    content = tiny_encoder.stat().st_size
    tracemalloc.start()
    try:
        opened = open_encoder(tiny_encoder)
        held = max(trace.size for trace in tracemalloc.take_snapshot().traces)
    finally:
        tracemalloc.stop()
    assert held < content, opened
