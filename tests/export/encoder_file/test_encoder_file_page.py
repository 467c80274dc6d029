"""The code of docs/encoder-file.md runs, and computes what this program computes."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.encoder_file.contract import EncoderContract
from export.encoder_file.encoder_file import open_encoder
from images.pixels.preprocess import load_image

PAGE = (Path(__file__).parents[3] / "docs" / "encoder-file.md").read_text()


def test_the_snippet_embeds_a_photo(
    tmp_path: Path,
    tiny_encoder: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shutil.copy(tiny_encoder, tmp_path / "encoder.onnx")
    monkeypatch.chdir(tmp_path)
    encoder = open_encoder("encoder.onnx")
    for photo in sorted(image_folder.glob("*/*.jpg")):
        shutil.copy(photo, "photo.jpg")
        names: dict[str, Any] = {}
        exec(snippet, names)
        image, _ = load_image(photo.read_bytes(), encoder.preprocess)
        (expected,) = encoder.encode(image[None])
        assert float(names["embedding"] @ expected) > 0.9999
        np.testing.assert_allclose(names["embedding"], expected, atol=0.01)
    assert capsys.readouterr().out.startswith("(24,) ")


def test_the_page_names_every_field() -> None:
    for name in [*EncoderContract.__dataclass_fields__, "preprocess_digest"]:
        assert f"`{name}`" in PAGE, name
