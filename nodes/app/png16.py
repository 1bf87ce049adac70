"""Writing PNG with 16 bits per channel, which Pillow does for grey only (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KIND = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type: grey, grey and alpha, RGB, RGB and alpha
_SUB = 1  # the filter that stores differences to the pixel on the left


def png16(values: np.ndarray, profile: bytes | None = None, exif: bytes | None = None) -> bytes:
    """The file of uint16 values `[H,W,C]` with 1 to 4 channels: grey, grey and alpha, RGB, RGB and alpha."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _KIND[channels], 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if profile:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    return b"".join([_SIGNATURE, *chunks, _chunk(b"IDAT", zlib.compress(_rows(values), 6)), _chunk(b"IEND", b"")])


def _rows(values: np.ndarray) -> bytes:
    """Every row as bytes, high byte first, each minus the same byte of the pixel on its left, after its filter."""
    height, width, channels = values.shape
    stored = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(height, width, 2 * channels)
    stored[:, 1:] -= stored[:, :-1].copy()
    return np.concatenate([np.full((height, 1), _SUB, np.uint8), stored.reshape(height, -1)], 1).tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
