"""Decode one clip in a process of its own, to learn whether the decoder crashes on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.reader import Reader
from hlfeat.errors import ClipError

CRASHED = "crashed"


def check_alone(clip: Clip, channels: str | int) -> None:
    """Read a clip to its end in another process; ClipError "crashed" if that is the process's end too."""
    task = json.dumps({"path": sys.path, "clip": asdict(clip), "channels": channels})
    child = (
        "import json, sys; t = json.load(sys.stdin); sys.path[:] = t['path']; "
        "from hlfeat.extraction.decode_probe import probe; probe(t)"
    )
    # a session of its own: Ctrl-C is for the parent to answer
    done = subprocess.run(
        [sys.executable, "-c", child], input=task.encode(), capture_output=True, start_new_session=True
    )
    if -done.returncode in _CRASHES:
        raise ClipError(CRASHED, f"the decoder crashed ({signal.Signals(-done.returncode).name})")


# as opposed to how a process ends because somebody wants it to, or because memory is short
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def probe(task: dict[str, Any]) -> None:
    """What the other process does."""
    span = task["clip"].pop("span")
    clip = Clip(**task["clip"], span=span and Span(**{**span, "stamp": tuple(span["stamp"])}))
    with suppress(ClipError), Reader(clip, task["channels"]) as reader:
        for _ in reader.blocks():
            pass
