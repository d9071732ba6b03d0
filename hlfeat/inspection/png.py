"""Features as a small PNG, without matplotlib: 256 colours of the map magma, one for each value."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from hlfeat.plotting.columns import HIGHEST, LOWEST

# Every 32nd colour of magma, by S. van der Walt and N. Smith (CC0); between them colours are interpolated.
MAGMA = "000004 1c1044 4f127b 812581 b5367a e55964 fb8761 fec287 fcfdbf"


def features_png(values: np.ndarray) -> bytes:
    """A picture with the first row at the bottom. Shape: [F, N], finite."""
    low, high = np.percentile(values, [LOWEST, HIGHEST])
    scaled = (values[::-1] - low) / (high - low if high > low else 1.0)
    return encode_png(np.clip(scaled * 255, 0, 255).astype(np.uint8), palette())


def palette() -> np.ndarray:
    """Shape: uint8 [256, 3]."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in MAGMA.split()])
    place = np.linspace(0, len(anchors) - 1, 256)
    return (
        np.stack([np.interp(place, range(len(anchors)), channel) for channel in anchors.T], 1).round().astype(np.uint8)
    )


def encode_png(pixels: np.ndarray, colours: np.ndarray) -> bytes:
    """A PNG of numbers of colours (W3C, "Portable Network Graphics", third edition). Shape: [H, W], [256, 3], uint8."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, a palette, not interlaced
    lines = np.concatenate(
        [np.zeros((height, 1), np.uint8), pixels], 1
    )  # each line begins with its filter, which is none
    chunks = [
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
