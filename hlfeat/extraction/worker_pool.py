"""What is done with clips in many places at once (a Worker), and where it is done (a WorkerPool)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

import torch
from torch import Tensor

from hlfeat.audio.clip import Clip
from hlfeat.extraction.events import ClipInfo, WorkerEvent

Asked = Callable[[], bool]


class Loader(Protocol):
    """What reads clips; a ClipLoader is one."""

    def channel_chunks(self, info: ClipInfo, channel: int, cancelled: Asked) -> Generator[Tensor, None, None]:
        """The samples of one channel of a long clip: [1, t] each. Raises ClipError."""

    def shares_pass(self, clip: Clip) -> bool:
        """Whether segments of the clip's file are read in one pass, as it cannot be sought exactly."""


class Worker(Protocol):
    """What is done with clips in threads or processes; an Engine is one."""

    @property
    def loader(self) -> Loader: ...

    def start_worker(self) -> None:
        """Called in each thread or process first."""

    def in_worker(self, clips: list[Clip], cancelled: Asked) -> list[WorkerEvent]:
        """Work on a chunk of clips: an event for each, in order. `cancelled` becomes true when it should end early."""

    def apply(self, step: str, *arguments: Any) -> Any:
        """One step of computing a long clip, by its name."""


class WorkerPool(Protocol):
    """Does a worker's work, for as many threads as it says.

    Attributes:
        workers: how many work at once.
        threads: how many threads call it.
        peak_bytes: memory that the work has taken outside of this process, at the highest.
    """

    workers: int
    threads: int
    peak_bytes: int

    def start_thread(self) -> None:
        """Called in each thread first."""

    def in_worker(self, clips: list[Clip], cancelled: Asked) -> list[WorkerEvent]: ...

    def apply(self, step: str, *arguments: Any) -> Any: ...

    def read(self, info: ClipInfo, channel: int, cancelled: Asked) -> Generator[Tensor, None, None]: ...

    def __enter__(self) -> WorkerPool: ...

    def __exit__(self, *_: object) -> None: ...


class ThreadPool:
    """The threads that call do the work; a WorkerPool."""

    peak_bytes = 0

    def __init__(self, worker: Worker, workers: int) -> None:
        self.workers = self.threads = workers
        self._worker = worker
        self.start_thread, self.in_worker = worker.start_worker, worker.in_worker
        self.read = worker.loader.channel_chunks

    def apply(self, step: str, *arguments: Any) -> Any:
        with torch.inference_mode():  # a thread does not inherit the mode of another
            return self._worker.apply(step, *arguments)

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass
