"""How the command reports an error: one line, in terms of its own options, and an exit code.

The library names the field or the argument that is wrong ("workers: expected ..."), and which option would help
(`HlfeatError.remedy`). Only here do these become options of the command.
"""

from __future__ import annotations

import errno
import re

from hlfeat.cli.exit_codes import Exit
from hlfeat.cli.stop import InterruptedEarlyError
from hlfeat.errors import ConfigError, HlfeatError, TooManyFailuresError, UsageError

# Fields of `Options` and arguments of the library that a message may begin with, and the options that set them.
OPTIONS = {
    "batch_seconds": "--batch-seconds",
    "channel": "--channel",
    "device": "--device",
    "max_failures": "--max-failures",
    "on_error": "--on-error",
    "only": "--only",
    "overwrite": "--overwrite",
    "part": "--part",
    "seconds": "--seconds",
    "update": "--update",
    "workers": "--workers",
}
REMEDIES = {
    "batch": "--batch N takes fewer clips at once",
    "overwrite": "--overwrite starts anew",
    "replace": "--overwrite replaces it",
    "seconds": "--seconds S exports it for clips of S seconds",
    "segment": "--start and --end choose a part",
}


def in_terms_of_options(error: HlfeatError) -> str:
    """The message of one of the library's errors, with options of the command for fields of the library."""
    message = str(error)
    if isinstance(error, ConfigError):
        message = re.sub(r"^override ", "--set ", message)
    elif isinstance(error, UsageError | TooManyFailuresError):
        message = re.sub(rf"^({'|'.join(OPTIONS)})(?=:| \S+: )", lambda field: OPTIONS[field[0]], message)
    return f"{message}; {REMEDIES[error.remedy]}" if error.remedy else message


def report(error: BaseException) -> tuple[str, Exit]:
    """The line that the command prints for an exception, and its exit code."""
    kind = type(error).__name__  # typer keeps its exceptions private
    if isinstance(error, InterruptedEarlyError | KeyboardInterrupt) or kind == "Abort":
        return "interrupted", Exit.INTERRUPTED
    if isinstance(error, HlfeatError):
        return in_terms_of_options(error), Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED
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
