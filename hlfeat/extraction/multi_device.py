"""Several devices of one machine: a process for each, each with a part of the clips."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hlfeat.config.config import Config
from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError, UsageError
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.report import merge_reports
from hlfeat.extraction.setup import prepare
from hlfeat.extraction.stop_signals import STOPS, when_stopped
from hlfeat.inputs.clip_list import Inputs

log = logging.getLogger("hlfeat")

POLL = 0.2  # seconds between looks at whether the run is to stop


class _RemoteProgress(Progress):
    """Progress that another process shows."""

    def __init__(self, parent: Connection, total: int, done: int, quiet: bool) -> None:
        super().__init__(total, done, quiet=True)
        self.parent = parent
        parent.send(("begin", done))

    def add(self, clips: int, seconds: float) -> None:
        super().add(clips, seconds)
        self.parent.send(("progress", (clips, seconds)))


def extract_on(
    devices: Sequence[str],
    config: Config,
    inputs: Inputs,
    out: Path,
    options: Options,
    *,
    stopped: Callable[[], bool] = lambda: False,
    finished_shard: Callable[[Path], None] = lambda path: None,
) -> dict[str, Any]:
    """As `extract`, with a process a device; each does its part of `options.part`.

    Returns the report of all of them, as in report.json.

    Raises what the first process raised that failed, after all have ended: the others do not stop for it.
    """
    prepare(config, options.weights, options.stats)  # what is wrong there is said once
    processes = multiprocessing.get_context("spawn")
    children: dict[Any, tuple[Any, str]] = {}
    for device, part in zip(devices, options.part.split(len(devices)), strict=True):
        ours, theirs = processes.Pipe(duplex=False)
        own = replace(options, device=device, part=part)
        child = processes.Process(target=_child, args=(theirs, config, inputs, out, own, log.level), name=device)
        with _held_back():
            child.start()
        theirs.close()
        children[ours] = child, f"part {part} on {device}"
    reports: list[dict[str, Any]] = []
    failures: list[Exception] = []
    progress = Progress(len(inputs.clips[options.part.slice(len(inputs.clips))]), 0, options.quiet)
    told = False
    running = dict(children)
    try:
        while running:
            if stopped() and not told:
                told = True
                for child, _ in running.values():
                    child.terminate()
            for ready in wait(list(running), POLL):
                connection: Any = ready
                child, name = running[connection]
                value: Any
                try:
                    what, value = connection.recv()
                except EOFError:
                    what, value = "failed", OutputError(f"{name} died; finished shards are kept: run the same again")
                if what == "shard":
                    finished_shard(value)
                elif what == "begin":
                    progress.add(value, 0.0)
                elif what == "progress":
                    progress.add(*value)
                else:
                    (reports if what == "done" else failures).append(value)
                    del running[connection]
    finally:
        progress.close()
        for child, _ in children.values():
            if told is False and running:
                child.terminate()
            child.join()
    for failure in failures:
        if not isinstance(failure, InterruptedRunError):
            raise failure
    if failures:
        raise failures[0]
    return merge_reports(reports)


@contextmanager
def _held_back() -> Iterator[None]:
    """A process started here gets signals to stop once it asks for them, and not while it still imports torch."""
    resource_tracker.ensure_running()  # or starting it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(parent: Connection, config: Config, inputs: Inputs, out: Path, options: Options, level: int) -> None:
    """One device's process: tells its parent what becomes of it."""
    asked = []
    when_stopped(lambda *_: asked.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"hlfeat: {options.device}: %(message)s"))
    log.handlers[:], log.level = [handler], level
    with suppress(BrokenPipeError):  # the parent was killed: what is finished stays, and nobody is left to tell
        try:
            report = extract(
                config,
                inputs,
                out,
                options,
                stopped=lambda: bool(asked),
                finished_shard=lambda path: parent.send(("shard", path)),
                progress=lambda *about: _RemoteProgress(parent, *about),
            )
            parent.send(("done", report.as_dict()))
        except (HlfeatError, InterruptedRunError) as e:
            parent.send(("failed", e))
        except Exception as e:
            log.debug("", exc_info=True)
            parent.send(("failed", RuntimeError(f"{options.device}: {type(e).__name__}: {e}")))


def split_devices(device: str) -> list[str]:
    """The devices of `cuda:0,cuda:1`.

    Raises UsageError for an empty name.
    """
    devices = device.split(",")
    if not all(devices):
        raise UsageError(f"device {device}: expected names separated by commas")
    return devices
