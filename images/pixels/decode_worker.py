"""The other end of `images.pixels.isolated`: decodes images in a process of its own.

    python -m images.pixels.decode_worker

First standard input brings one line of JSON: the preprocessing specification and the limits. Then
images, each as its length (8 bytes, little-endian) and its bytes. Standard output answers: one
byte when all is ready, then for each image REPLY and what it announces, the pixels or a refusal.

Time is limited by the system: the timer ends this process, whatever the decoder does and whether or
not somebody still waits for it. So is memory, counted from what the process takes when it is ready.
"""

import json
import os
import signal
import struct
from typing import BinaryIO

from base.errors import ImageRefused, RefusalReason
from base.memory import virtual_memory
from images.pixels import preprocess
from images.pixels.preprocess import PreprocessSpec

READY = b"\x01"
LENGTH = struct.Struct("<Q")
REPLY = struct.Struct("<?IIQ")
"""Whether it could be used, width, height, bytes that follow: pixels, or JSON of a refusal."""


def main() -> None:
    """Decode until standard input ends."""
    source = os.fdopen(os.dup(0), "rb", buffering=2**16)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    settings = json.loads(source.readline())
    spec = PreprocessSpec.from_dict(settings["preprocess"])
    _limit(settings["memory"])
    answers.write(READY)
    while head := source.read(LENGTH.size):
        content = source.read(LENGTH.unpack(head)[0])
        signal.setitimer(signal.ITIMER_REAL, settings["seconds"])
        answer = _answer(content, spec, settings["limits"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, answer)


def _limit(memory: int) -> None:
    """Allow so many bytes more than there are now, and no core files."""
    import resource  # not on Windows, where the constants here are imported too

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((virtual_memory() or 0) + memory, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(content: bytes, spec: PreprocessSpec, limits: dict[str, int]) -> bytes:
    try:
        pixels, (width, height) = preprocess.load_image(content, spec, **limits)
        return REPLY.pack(True, width, height, pixels.nbytes) + pixels.tobytes()
    except ImageRefused as error:
        refusal = (str(error.reason), error.message)
    except MemoryError:
        refusal = (str(RefusalReason.TOO_MANY_PIXELS), "the picture does not fit into memory")
    text = json.dumps(refusal).encode()
    return REPLY.pack(False, 0, 0, len(text)) + text


def _write(answers: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[answers.write(left) :]


if __name__ == "__main__":
    main()
