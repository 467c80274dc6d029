"""The plain BentoML service of its guides: a batchable API over PIL images.

BentoML reads the annotations: none may be a string, and it knows no parameters of ndarray.
"""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime as ort
from PIL.Image import Image

from benchmarks.rivals import ENCODER, MAX_BATCH, prepared
from export.encoder_file.contract import EMBEDDINGS, INPUT
from export.encoder_file.encoder_file import read_contract

Matrix = np.ndarray[Any, np.dtype[np.float32]]


@bentoml.service
class Plain:
    """Images to embeddings, batched by BentoML."""

    def __init__(self) -> None:
        encoder = os.environ[ENCODER]
        self.session = ort.InferenceSession(encoder, providers=["CPUExecutionProvider"])
        self.spec = read_contract(encoder).preprocess

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def embed(self, images: list[Image]) -> np.ndarray:
        """Embeddings float32 [N, E]."""
        batch = np.stack([prepared(image, self.spec) for image in images])
        embeddings: Matrix = self.session.run([EMBEDDINGS], {INPUT: batch})[0]
        return embeddings
