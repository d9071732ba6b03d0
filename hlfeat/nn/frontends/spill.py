"""SpillFile: bands of a clip that is too long for memory, on the disk between two passes over them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEDIAN_BYTES = 64 << 20  # of one clip's bands that are in memory while their medians are computed


class SpillFile:
    """Chunks of one clip in an unnamed temporary file, which disappears with the process, however that ends.

    Args:
        folder: where the disk has room.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)
        self._frames: list[int] = []
        self._bands = 0
        self._device = torch.device("cpu")

    def __enter__(self) -> SpillFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunk: Tensor) -> None:
        """Shape: [1, F, n], kept in float32."""
        self._bands, self._device = chunk.shape[1], chunk.device
        self._frames.append(chunk.shape[2])
        self._file.write(chunk.float().cpu().contiguous().numpy().data)

    def __iter__(self) -> Iterator[Tensor]:
        self._file.seek(0)
        for n in self._frames:
            yield torch.from_numpy(self._read(self._bands, n))[None].to(self._device)

    def median(self, first: int = 0, count: int | None = None) -> Tensor:
        """Of each band over so many frames; of an even count the lower of the two middle values: [1, F, 1].

        Args:
            first, count: of the frames; default: all.
        """
        total = sum(self._frames)
        count = total - first if count is None else count
        bands_in_memory = max(1, MEDIAN_BYTES // (4 * total))
        medians = np.empty(self._bands, np.float32)
        for band in range(0, self._bands, bands_in_memory):
            some = min(bands_in_memory, self._bands - band)
            bands, start, done = np.empty((some, total), np.float32), 0, 0
            for n in self._frames:
                self._file.seek(start + 4 * band * n)
                bands[:, done : done + n] = self._read(some, n)
                start += 4 * self._bands * n
                done += n
            middle = (count - 1) // 2
            clip = bands[:, first : first + count]
            clip.partition(middle, axis=1)
            medians[band : band + some] = clip[:, middle]
        return torch.from_numpy(medians)[None, :, None].to(self._device)

    def _read(self, bands: int, frames: int) -> np.ndarray:
        data = np.empty((bands, frames), np.float32)
        self._file.readinto(data.data)
        return data
