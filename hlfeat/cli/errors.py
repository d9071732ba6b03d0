"""How the command ends: its exit codes, and the one line that it prints for an error.

The library names the field or the argument that is wrong ("workers: expected ..."), and in `HlfeatError.remedy` what
would help. Only this module turns them into options of the command ("--workers: expected ...").
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum

from hlfeat.errors import ConfigError, HlfeatError, TooManyFailuresError, UsageError


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_CLIPS_FAILED = 3
    INTERRUPTED = 130


# What the help says of the codes that every command has; a command may replace lines and add some.
EXIT_STATUS = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "usage or configuration error",
    Exit.INTERRUPTED: "interrupted",
}
EXIT_STATUS_OF_CLIPS = {**EXIT_STATUS, Exit.SOME_CLIPS_FAILED: "done, but some clips failed"}


class InterruptedEarlyError(BaseException):
    """Stopped by a signal before there was anything to resume."""


# The library's names at the beginning of a message, and the options that set them.
OPTIONS = {
    "audio_column": "--audio-column",
    "batch_seconds": "--batch-seconds",
    "channel": "--channel",
    "device": "--device",
    "dtype": "--dtype",
    "force": "--force",
    "frames": "--frames",
    "max_failures": "--max-failures",
    "on_error": "--on-error",
    "on_truncated": "--on-truncated",
    "on": "--on",
    "only": "--only",
    "overwrite": "--overwrite",
    "part": "--part",
    "parts": "--parts",
    "pitch": "--pitch",
    "retries": "--retries",
    "root": "--root",
    "seconds": "--seconds",
    "update": "--update",
    "viterbi": "--viterbi",
    "weights": "--weights",
    "workers": "--workers",
}
REMEDIES = {
    "audio_column": "--audio-column NAME chooses one",
    "batch": "--batch N takes fewer clips at once",
    "finish": "the command that wrote it finishes it; then convert it",
    "frames": "--frames writes a row for each frame, and extract --pool makes vectors",
    "null": "-0 reads such a list",
    "overwrite": "--overwrite starts anew",
    "part": "--part I/N or --part auto goes on with one of its parts, --parts auto with all",
    "repair": "hlfeat repair takes back what is damaged",
    "replace": "--overwrite replaces it",
    "root": "--root FOLDER says where they are",
    "seconds": "--seconds S exports it for clips of S seconds",
    "segment": "--start and --end choose a part",
}
_NAMES = "|".join(OPTIONS)


def in_terms_of_options(message: str) -> str:
    """A message of the library with what would be typed: `--update` for `the option update`, `-c log-mel` for
    `the shipped configuration log-mel`, and `--set a=1 --set b=2` for `the settings a=1 b=2`."""
    message = re.sub(rf"\bthe option ({_NAMES})\b", lambda name: OPTIONS[name[1]], message)
    message = re.sub(r"\bthe shipped configuration (?=[\w.-])", "-c ", message)
    return re.sub(r"\bthe settings ((?:[\w.]+=\S+ ?)+)", lambda s: re.sub(r"([\w.]+=)", r"--set \1", s[1]), message)


def message_of(error: HlfeatError) -> str:
    """The message of one of the library's errors, with options of the command instead of the library's names."""
    message = in_terms_of_options(str(error))
    if isinstance(error, ConfigError):
        message = re.sub(r"^override ", "--set ", message)
    elif isinstance(error, UsageError | TooManyFailuresError):  # "workers: ...", "device cuda:9: ..."
        message = re.sub(rf"^({_NAMES})(?=:| \S+: )", lambda name: OPTIONS[name[0]], message)
    return f"{message}; {REMEDIES[error.remedy]}" if error.remedy else message


@contextmanager
def naming_options(typed: Mapping[str, str]) -> Iterator[None]:
    """Name the option that was typed, such as `--shard-size 8X`, in errors about the override that it stands for.

    Args:
        typed: overrides, and the options with their values.
    """
    try:
        yield
    except ConfigError as e:
        for override, option in typed.items():
            place, key = f"override {override}: ", override.partition("=")[0]
            if str(e).startswith(place):
                raise ConfigError(f"{option}: {str(e).removeprefix(place).removeprefix(f'{key}: ')}") from e
        raise


def quoted(value: str) -> str:
    """Text as a value of an override, which stays text."""
    return json.dumps(value, ensure_ascii=False)


def report(error: BaseException) -> tuple[str, Exit]:
    """The line that the command prints for an exception, and its exit code."""
    kind = type(error).__name__  # typer keeps its exceptions private
    if isinstance(error, InterruptedEarlyError | KeyboardInterrupt) or kind == "Abort":
        return "interrupted", Exit.INTERRUPTED
    if isinstance(error, HlfeatError):
        return message_of(error), Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED
    if hasattr(error, "format_message"):  # an option or an argument that typer refuses
        return f"{error.format_message()} (see --help)", Exit.USAGE
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        name = "standard output" if error.filename is None else error.filename
        return f"{name}: {error.strerror or error}", Exit.FAILED
    if isinstance(error, MemoryError):
        return "the system gives no more memory", Exit.FAILED
    if str(error) == "can't start new thread":
        return "the system gives no more threads", Exit.FAILED
    return f"{kind}: {error} (a bug: please report it with the output of -v)", Exit.FAILED
