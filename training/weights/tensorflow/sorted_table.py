"""A sorted string table, the format of LevelDB that TensorFlow's index files are written in.

    file      blocks, then 48 bytes: two handles (offset and size as varints) of which the second is
              the index block's, zeros, and MAGIC
    block     entries, offsets of restarts (uint32 each), their number (uint32); after it one byte
              for the compression, which MUST be 0, and four of a masked CRC-32C over block and byte
    entry     three varints: bytes shared with the key before, further bytes of the key, bytes of
              the value; then those bytes of key and value

An index block has one entry for each block; its value is that block's handle.
"""

from collections.abc import Iterator

from base.errors import ArtifactError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes
TRAILER = 5  # bytes after a block
MAX_BYTES = 64 * 2**20  # of an index; that of a ResNet-152 has 60 KB
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected


def read_table(content: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) in the order of keys.

    Raises:
        ArtifactError: damaged, compressed, or not such a table.
    """
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise ArtifactError(f"{name} is not an index of TensorFlow: give a .index file")
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{name} has {len(content)} bytes, more than the index of any encoder")
    try:
        footer = content[-FOOTER:]
        _, position = varint(footer, 0)
        _, position = varint(footer, position)
        for _, handle in _entries(_block(content, footer[position:], name)):
            yield from _entries(_block(content, handle, name))
    except IndexError as error:
        raise ArtifactError(f"{name} is damaged: it ends within an entry") from error


def varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError("a varint of more than 64 bits")


def _block(content: bytes, handle: bytes, name: str) -> bytes:
    offset, position = varint(handle, 0)
    size, _ = varint(handle, position)
    block, trailer = content[offset : offset + size], content[offset + size :][:TRAILER]
    if len(block) != size or len(trailer) != TRAILER:
        raise ArtifactError(f"{name} is damaged: it ends within a block")
    if trailer[0]:
        raise ArtifactError(f"{name} is compressed, which TensorFlow does not do")
    if masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ArtifactError(f"{name} is damaged: a checksum does not fit")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = varint(block, position)
        more, position = varint(block, position)
        size, position = varint(block, position)
        if shared > len(key) or position + more + size > end:
            raise IndexError("an entry beyond its block")
        key = key[:shared] + block[position : position + more]
        position += more
        yield key, block[position : position + size]
        position += size


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def masked_crc32c(content: bytes) -> int:
    """CRC-32C, rotated and shifted as LevelDB stores it."""
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
