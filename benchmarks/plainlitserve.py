"""A LitServe server with batching, as its documentation shows it: `benchmarks.plainlitserve PORT`.

LitServe reads the annotations: none may be a string.
"""

import io
import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort
from PIL import Image
from starlette.requests import Request

from benchmarks.rivals import ENCODER, MAX_BATCH, prepared
from export.encoder_file.contract import EMBEDDINGS, INPUT
from export.encoder_file.encoder_file import read_contract

BATCH_TIMEOUT = 0.01  # seconds a batch may wait to fill


class Embedder(litserve.LitAPI):  # type: ignore[misc]
    """Images to embeddings, batched by LitServe."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Open the encoder in the worker."""
        encoder = os.environ[ENCODER]
        self.session = ort.InferenceSession(encoder, providers=["CPUExecutionProvider"])
        self.spec = read_contract(encoder).preprocess

    def decode_request(self, request: Request) -> Any:
        """Return the square that the encoder sees, from the file in the form."""
        image: Any = request["image"]
        return prepared(Image.open(io.BytesIO(image.file.read())), self.spec)

    def batch(self, inputs: list[Any]) -> Any:
        """Uint8 [N, S, S, 3]."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Embeddings float32 [N, E]."""
        return self.session.run([EMBEDDINGS], {INPUT: x})[0]

    def unbatch(self, output: Any) -> Any:
        """One embedding a request."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """JSON."""
        return {"embedding": output.tolist()}


def main() -> None:
    """Serve until it is stopped."""
    api = Embedder(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)


if __name__ == "__main__":
    main()
