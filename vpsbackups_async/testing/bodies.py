"""Huge bodies that are cheap to produce: a valid empty list, padded with spaces."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator

__all__ = ["MEBIBYTE", "bomb", "padded_list", "padded_size"]

MEBIBYTE = 2**20
_HEAD = b'{"count":0,"next":null,"previous":null,"results":['
_TAIL = b"]}"
_BLANKS = b" " * MEBIBYTE
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def padded_size(size: int) -> int:
    """The number of bytes that `padded_list` yields for ``size``: at least an empty list."""
    return max(size, len(_HEAD) + len(_TAIL))


def padded_list(size: int) -> Iterator[bytes]:
    """The body of a valid, empty list of ``size`` bytes, in blocks."""
    yield _HEAD
    left = padded_size(size) - len(_HEAD) - len(_TAIL)
    while left > 0:
        yield _BLANKS[:left]
        left -= MEBIBYTE
    yield _TAIL


@functools.lru_cache(maxsize=4)
def bomb(size: int) -> bytes:
    """The body of `padded_list`, gzip-encoded: about a thousandth of ``size`` bytes."""
    compressed = [_GZIP_HEAD]
    crc = 0
    for block in padded_list(size):
        crc = zlib.crc32(block, crc)
        compressed.append(_compress(block))
    end = zlib.compressobj(9, wbits=-15).flush()
    return b"".join([*compressed, end, struct.pack("<II", crc, padded_size(size) % 2**32)])


@functools.lru_cache(maxsize=4)
def _compress(block: bytes) -> bytes:
    # A full flush makes a block independent of the blocks before it, so the cache can return the
    # same bytes for equal blocks. Compressing all of 200 MB takes most of a second.
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
