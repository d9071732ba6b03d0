"""What computes features of clips, whatever the device: reading them, and long ones piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.audio.resample import Resampler
from hlfeat.errors import ClipError
from hlfeat.extraction.clip_loader import ClipLoader, Failure, Item
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.streaming import InOrder, stream
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.statistics.moments import Moments, moments


class Engine:
    """Features of clips on one device.

    Args:
        extractor: in eval mode, on the device.
        finish: what is done to features before they are written.
        device: where the extractor is.
        dtype: of what is written.
        channels: the channel policy of reading (see `decode`).
    """

    def __init__(
        self,
        extractor: Extractor,
        finish: PostProcessor,
        device: torch.device,
        dtype: np.dtype[Any],
        channels: str | int,
    ) -> None:
        self.extractor, self.finish, self.device, self.dtype = extractor, finish, device, dtype
        self.resampler = Resampler(extractor.sample_rate)
        self.loader = ClipLoader(self.resampler, channels)
        self.in_order: InOrder

    def start_thread(self) -> None:
        """Called in every worker thread first."""

    def work(self, clips: list[Clip], cancelled: Callable[[], bool]) -> list[Item | Failure]:
        """What the worker threads do: read clips."""
        found: list[Item | Failure] = []
        for clip in clips:
            try:
                found.append(self._read(clip, cancelled))
            except ClipError as e:
                found.append((clip, e))
        return found

    def _read(self, clip: Clip, cancelled: Callable[[], bool]) -> Item:
        return self.loader(clip, cancelled)

    def use(self, pool: ThreadPoolExecutor, workers: int) -> None:
        """Told the worker threads, which may be given other work too."""

    def stream(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        """Items that have been read to items with features, in order; long ones stay as they are."""
        raise NotImplementedError

    def long(
        self, item: Item, entry: int, folder: Path, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[np.ndarray, Moments]]:
        """What is written of one entry of a long clip, which is read meanwhile: [n, *finish.shape] each; its moments.

        Raises ClipError where the clip turns out to be bad; `folder` is for what does not fit into memory.
        """
        pieces = self.loader.pieces(item, entry, cancelled)
        with torch.inference_mode():
            features = stream(
                self.extractor, pieces, item.sample_rate, self.resampler, self.in_order, lambda: SpillFile(folder)
            )
            yield from self._written(self.finish(features))

    def _written(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, Moments]]:
        """Pieces of a long clip as they are written, with their moments."""
        return map(self._write, pieces)

    def _write(self, piece: Tensor) -> tuple[np.ndarray, Moments]:
        y = self._checked(self._output(piece))
        return y, moments(y)

    def _output(self, y: Tensor) -> np.ndarray:
        return y.to(getattr(torch, self.dtype.name)).cpu().contiguous().numpy()

    def _checked(self, y: np.ndarray, loudest: Callable[[], float] | None = None) -> np.ndarray:
        if not np.isfinite(y).all():
            why = "" if loudest is None else f": samples as large as {loudest():.3g}"
            raise ClipError("non-finite", f"features that {self.dtype.name} cannot hold{why}")
        return y

    def _too_long(self) -> ClipError:
        return ClipError("out-of-memory", f"too long for the memory of {self.device}")
