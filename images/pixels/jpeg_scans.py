"""The scans of a JPEG, counted without decoding it."""

import re

_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # TEM and restarts: no length follows
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive


def count_scans(data: bytes, most: int) -> int:
    """Return how many scans a JPEG has up to the end of its image, or `most` + 1 if more.

    What comes after the end, as the video of a motion photo, is not looked at, nor what lies in
    its segments, as a thumbnail. ITU-T T.81, annex B: a marker is FF and a byte; a length follows.
    """
    if data.count(b"\xff\xda") <= most:  # nearly all, at the speed of memory
        return data.count(b"\xff\xda")
    scans, at = 0, 2
    while scans <= most and (match := _MARKER.search(data, at)):
        kind, at = data[match.end() - 1], match.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        if kind not in _STANDALONE:
            at += int.from_bytes(data[at : at + 2])
    return scans


def is_interleaved(data: bytes) -> bool:
    """Return whether the first scan of a JPEG has all its colors: others are decoded in memory.

    False also where the header cannot be read.
    """
    at, colors = 2, 0
    while match := _MARKER.match(data, at):
        kind, at = data[match.end() - 1], match.end()
        if kind in _FRAMES:
            colors = data[at + 7] if at + 7 < len(data) else 0
        if kind == _START_OF_SCAN:
            return at + 2 < len(data) and data[at + 2] == colors
        if kind not in _STANDALONE:
            at += int.from_bytes(data[at : at + 2])
    return False
