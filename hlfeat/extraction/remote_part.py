"""What a worker on another machine does: checks that it is in the same world as its driver, and does one part."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from hlfeat.errors import HlfeatError, InterruptedRunError, OutputError, UsageError
from hlfeat.extraction.forwarding import forwarded_log, forwarding_hooks, sendable_formatter
from hlfeat.extraction.mailbox import Message, Outbox
from hlfeat.extraction.one_part import Work, extract_part
from hlfeat.extraction.options import Options
from hlfeat.extraction.report import Report
from hlfeat.files import FULL_DISK
from hlfeat.partition import Part
from hlfeat.remote.urls import is_url
from hlfeat.storage.driver_token import sees_token
from hlfeat.storage.heartbeat import STALE
from hlfeat.storage.lock import AnotherRunError
from hlfeat.versions import versions

T = TypeVar("T")
Post = Callable[[Sequence[Message]], bool]

PATIENCE = STALE + 60  # seconds that a part waits for a run that holds its lock: a dead machine's, at most
SAME_VERSIONS = ("hlfeat", "torch", "torchaudio")  # what must be of one version everywhere

log = logging.getLogger("hlfeat")


class TryAgainError(Exception):
    """A part failed in a way that another worker, or the same one later, may be spared; the text says how."""


@dataclass(frozen=True)
class Assignment:
    """What the driver tells every worker.

    Attributes:
        versions: of the driver's libraries.
        folder: that the driver is in; None where no path depends on it.
        out: the output directory; token: of the driver, in it; both None of a bucket, which is the same everywhere.
        level: of the driver's log; formatter: of its lines, pickled.
        payload: Work and Options, pickled: another version of hlfeat may not be able to read them.
    """

    versions: Mapping[str, str]
    folder: str | None
    out: Path | None
    token: str | None
    level: int
    formatter: bytes
    payload: bytes

    @classmethod
    def of(cls, work: Work, options: Options, token: str | None) -> Assignment:
        """Made by the driver, in its current folder."""
        files = [*(clip.path for clip in work.clips), work.place.local, options.weights, options.stats]
        relative = any(not (os.path.isabs(path) or is_url(os.fspath(path))) for path in files if path is not None)
        here = os.getcwd() if relative else None
        formatter, payload = pickle.dumps(sendable_formatter()), pickle.dumps((work, options))
        return cls(versions(), here, work.place.local, token, log.level, formatter, payload)


def do_part(
    assignment: Assignment, part: Part, post: Post, node: str, patience: float = PATIENCE
) -> Report | HlfeatError:
    """Do a part, and post what becomes of it.

    Args:
        node: the name of this machine.
        patience: seconds that the part waits for the lock of a run that is at work on it.

    Returns an error for which it would be of no use to try again.

    Raises TryAgainError for all others.
    """
    try:
        _check_versions(assignment.versions, node)
        with (
            _in_folder(assignment.folder, node),
            Outbox(post, part.index, node) as outbox,
            forwarded_log(outbox.send, assignment.level, _formatter_of(assignment)),
        ):
            out, token = assignment.out, assignment.token
            if out is not None and token is not None and not sees_token(out, token):
                raise UsageError(f"{node} does not see {out} as the driver does: expected a shared folder")
            work, options = pickle.loads(assignment.payload)
            hooks = forwarding_hooks(outbox.send, lambda: outbox.stopped)
            options = replace(options, part=part)
            with _retrying(node):
                return _wait_for_lock(lambda: extract_part(work, options, hooks), hooks.stopped, patience)
    except HlfeatError as e:
        return e


def _formatter_of(assignment: Assignment) -> logging.Formatter | None:
    """What makes the lines of the driver's log; None if it is of a class that only the driver has."""
    try:
        formatter: logging.Formatter | None = pickle.loads(assignment.formatter)
    except Exception:
        return None
    return formatter


@contextmanager
def _retrying(node: str) -> Iterator[None]:
    """Log errors that another attempt may not meet, and turn them into TryAgainError. All others pass unchanged."""
    try:
        yield
    except HlfeatError as e:
        if not _is_transient(e):
            raise
        log.warning("%s", e)
        raise TryAgainError(f"{e} (on {node})") from e
    except Exception as e:
        text = f"{type(e).__name__}: {e}"
        log.warning("%s", text, exc_info=log.isEnabledFor(logging.DEBUG))
        raise TryAgainError(f"{text} (on {node})") from e


def _is_transient(error: HlfeatError) -> bool:
    """Whether the cause may be the machine, its network or its memory, so that another attempt can succeed."""
    full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL_DISK
    return isinstance(error, OutputError) and not isinstance(error, AnotherRunError) and not full


def _check_versions(expected: Mapping[str, str], node: str) -> None:
    here = versions()
    for name in SAME_VERSIONS:
        if expected.get(name) != here[name]:
            raise UsageError(f"{node} has {name} {here[name]}, the driver {expected.get(name)}: expected the same")


@contextmanager
def _in_folder(folder: str | None, node: str) -> Iterator[None]:
    """Relative paths mean what they mean to the driver, so that the index has them as the driver would write them."""
    if folder is None:
        yield
        return
    before = os.getcwd()
    try:
        os.chdir(folder)
    except OSError as e:
        raise UsageError(
            f"{node} has no folder {folder}, which relative paths are relative to ({e.strerror}): use absolute paths, "
            "or a folder that all machines share"
        ) from e
    try:
        yield
    finally:
        os.chdir(before)


def _wait_for_lock(run: Callable[[], T], stopped: Callable[[], bool], patience: float) -> T:
    """Wait while another run is at work on the part: the one before, which was killed and has not quite ended."""
    end, logged = time.monotonic() + patience, False
    while True:
        try:
            return run()
        except AnotherRunError as e:
            if time.monotonic() > end:
                raise
            if not logged:
                log.info("%s; waiting for it", e)
                logged = True
        for _ in range(10):
            if stopped():
                raise InterruptedRunError
            time.sleep(0.1)
