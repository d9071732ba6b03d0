"""The one error family. Messages say what was expected and what came; outer layers add the file or the key."""

from __future__ import annotations

import copyreg
import errno
from collections.abc import Mapping
from typing import Any

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)  # the system's failure, never a clip's


class HlfeatError(Exception):
    """Anything hlfeat reports on one line instead of with a traceback.

    Args:
        remedy: the option that would help, such as "overwrite"; the command says how it is spelled there.

    Attributes:
        report: of a run that the error has ended, as report.json has it; None where none had begun.
        facts: the argument `extra` of the call that logs the error.
    """

    report: dict[str, Any] | None = None
    facts: Mapping[str, Any] | None = None

    def __init__(self, *args: object, remedy: str = "") -> None:
        super().__init__(*args)
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:  # the arguments of a subclass are not always those of Exception
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(HlfeatError):
    """The command was called with something it cannot work on (exit code 2)."""


class ConfigError(UsageError):
    """The configuration, or weights against it, are wrong (exit code 2)."""


class LayerError(ConfigError):
    """A layer of the stack, or another part, cannot be built; `key` is its place in the configuration: ("stack", 0)."""

    def __init__(self, key: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{'.'.join(map(str, key))} {message}")
        self.key = key


class OutputError(HlfeatError):
    """The output directory cannot be used or written (exit code 1)."""


class ClipError(HlfeatError):
    """One clip cannot be used; the run goes on without it.

    Attributes:
        code: a stable word for programs: `missing`, `not-audio`, `truncated`, ...; the message is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnreachableError(HlfeatError):
    """What the run reads stays out of reach (exit code 1): the same command goes on once it is there again."""


class TooManyFailuresError(HlfeatError):
    """The run was told to stop at this many failed clips (exit code 1)."""


class ExportError(HlfeatError):
    """Modules that cannot be exported, or whose exported form gives other features (exit code 1)."""


class InterruptedRunError(HlfeatError):
    """The run was asked to stop; what is finished is on the disk."""


class AxisError(HlfeatError, ValueError):
    """A frequency axis that harmonics cannot be found on."""
