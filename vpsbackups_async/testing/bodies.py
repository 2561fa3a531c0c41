"""Huge bodies that are cheap to make: a valid empty list, padded with blanks."""

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
    """The bytes that `padded_list` really gives for ``size``: never less than an empty list."""
    return max(size, len(_HEAD) + len(_TAIL))


def padded_list(size: int) -> Iterator[bytes]:
    """The blocks of a valid list of ``size`` bytes."""
    yield _HEAD
    left = padded_size(size) - len(_HEAD) - len(_TAIL)
    while left > 0:
        yield _BLANKS[:left]
        left -= MEBIBYTE
    yield _TAIL


@functools.lru_cache(maxsize=4)
def bomb(size: int) -> bytes:
    """The list of `padded_list`, gzip-encoded: about a thousandth of ``size``."""
    squeezed = [_GZIP_HEAD]
    crc = 0
    for block in padded_list(size):
        crc = zlib.crc32(block, crc)
        squeezed.append(_squeeze(block))
    end = zlib.compressobj(9, wbits=-15).flush()
    return b"".join([*squeezed, end, struct.pack("<II", crc, padded_size(size) % 2**32)])


@functools.lru_cache(maxsize=4)
def _squeeze(block: bytes) -> bytes:
    # A full flush makes a block independent of what came before, so equal blocks are squeezed
    # once: compressing 200 MB for real takes most of a second.
    squeeze = zlib.compressobj(9, wbits=-15)
    return squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH)
