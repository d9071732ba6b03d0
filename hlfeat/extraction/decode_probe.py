"""Decodes one clip in a process of its own, to learn whether the decoder crashes on it.

`probe` starts `python -m hlfeat.extraction.decode_probe`, which reads the clip that is described on its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict

from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.reader import Reader
from hlfeat.errors import ClipError

CRASHED = "crashed"  # the code of such a clip's failure

# signals of a crash, as opposed to those by which somebody, or the system for want of memory, ends a process
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def probe(clip: Clip, channels: str | int) -> None:
    """Read a clip to its end in another process. Raises ClipError "crashed" if that process crashes."""
    task = json.dumps({"clip": asdict(clip), "channels": channels})
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=task.encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": _python_path(), "PYTHONSAFEPATH": "1"},
        start_new_session=True,  # Ctrl-C is for this process to answer
    )
    if -done.returncode in _CRASHES:
        raise ClipError(CRASHED, f"the decoder crashed ({signal.Signals(-done.returncode).name})")


def _python_path() -> str:
    """What this process imports from, for the other one to find the same packages."""
    folders = [os.environ.get("PYTHONPATH", ""), *(folder or os.getcwd() for folder in sys.path)]
    return os.pathsep.join(filter(None, folders))


def _read(task: str) -> None:
    """What the other process does."""
    values = json.loads(task)
    span = values["clip"].pop("span")
    clip = Clip(**values["clip"], span=span and Span(**{**span, "stamp": tuple(span["stamp"])}))
    with suppress(ClipError), Reader(clip, values["channels"]) as reader:
        for _ in reader.blocks():
            pass


if __name__ == "__main__":
    _read(sys.stdin.read())
