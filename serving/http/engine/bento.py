"""The encoder's way into a bento: BentoML's model store.

    python -m serving.http.engine.bento encoder.onnx    keeps the encoder in the model store
    bentoml build                                       puts the newest one kept into a bento

`bentofile.yaml` names the model; in a bento, `stored_encoder` finds the one it was built with.
"""

import os
import shutil
import sys
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from base.errors import LookalikeError, UsageError
from export.encoder_file.encoder_file import describe

MODEL_NAME = "lookalike-encoder"
ALIAS = "encoder"  # as in bentofile.yaml
FILE_NAME = "encoder.onnx"
VERSION_CHARACTERS = 16


def store_encoder(path: Path) -> str:
    """Copy an encoder file into BentoML's model store and return its tag.

    The version is the beginning of the file's SHA-256: storing the same file again changes nothing.

    Raises:
        ArtifactError: the file is not an encoder.
    """
    facts = describe(path)
    tag = f"{MODEL_NAME}:{facts['sha256'][:VERSION_CHARACTERS]}"
    if bentoml.models.list(tag):
        return tag
    metadata = {"sha256": facts["sha256"], "contract": facts["contract"]}
    with bentoml.models.create(tag, metadata=metadata) as model:
        shutil.copyfile(path, Path(model.path_of(FILE_NAME)))
    return str(model.tag)


def stored_encoder() -> Path:
    """Return the encoder of the bento that is running, or the newest in the model store.

    Raises:
        UsageError: there is none.
    """
    for tag in (ALIAS, f"{MODEL_NAME}:latest"):
        try:
            return Path(bentoml.models.get(tag).path_of(FILE_NAME))
        except NotFound:
            continue
    raise UsageError(
        "no encoder: set LOOKALIKE_ENCODER to an encoder file, or keep one in the model store "
        "with: python -m serving.http.engine.bento encoder.onnx"
    )


def main(arguments: list[str]) -> int:
    """Keep the encoder files named on the command line and print their tags."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    try:
        for argument in arguments:
            print(store_encoder(Path(argument)))
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
