"""Errors and log lines of the library in terms of the command's options, and the exit codes of errors."""

from __future__ import annotations

import ast
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import hlfeat
from hlfeat.cli.app import app
from hlfeat.cli.errors import OPTIONS, REMEDIES, Exit, InterruptedEarlyError, in_terms_of_options, report
from hlfeat.errors import ConfigError, OutputError, TooManyFailuresError, UsageError
from tests import helpers

PACKAGE = Path(hlfeat.__file__).parent


def options(group: Any) -> Iterator[str]:
    """All options of a command, or of all commands of a group."""
    for parameter in group.params:
        yield from parameter.opts
    for below in getattr(group, "commands", {}).values():
        yield from options(below)


def remedies() -> set[str]:
    """All values of `remedy=` in the library."""
    calls = [n for p in PACKAGE.rglob("*.py") for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.Call)]
    values = [k.value for call in calls for k in call.keywords if k.arg == "remedy"]
    return {value.value for value in values if isinstance(value, ast.Constant)}


def test_the_translations_name_options_that_exist():
    existing = set(options(typer.main.get_command(app)))
    words = {word.rstrip(",;") for text in [*OPTIONS.values(), *REMEDIES.values()] for word in text.split()}
    assert {word for word in words if word.startswith("-")} <= existing
    assert all(option == "--" + name.replace("_", "-") for name, option in OPTIONS.items())


def test_every_remedy_of_the_library_is_an_option():
    assert len(remedies()) > 4
    assert remedies() <= set(REMEDIES)


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (UsageError("workers: expected 1"), "--workers: expected 1", Exit.USAGE),
        (UsageError("device cuda:9: cannot be used"), "--device cuda:9: cannot be used", Exit.USAGE),
        (UsageError("seconds of audio"), "seconds of audio", Exit.USAGE),
        (ConfigError("override seed=x: seed: expected"), "--set seed=x: seed: expected", Exit.USAGE),
        (ConfigError("device: unknown key"), "device: unknown key", Exit.USAGE),
        (TooManyFailuresError("max_failures: more than 2"), "--max-failures: more than 2", Exit.FAILED),
        (OutputError("out: damaged", remedy="overwrite"), "out: damaged; --overwrite starts anew", Exit.FAILED),
        (OutputError("part: damaged"), "part: damaged", Exit.FAILED),
        (KeyboardInterrupt(), "interrupted", Exit.INTERRUPTED),
        (InterruptedEarlyError(), "interrupted", Exit.INTERRUPTED),
        (OSError(errno.ENOSPC, "No space left"), "standard output: No space left", Exit.FAILED),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied", Exit.FAILED),
        (MemoryError(), "the system gives no more memory", Exit.FAILED),
        (
            ZeroDivisionError("1/0"),
            "ZeroDivisionError: 1/0 (a bug: please report it with the output of -v)",
            Exit.FAILED,
        ),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(error, message, code):
    assert report(error) == (message, code)


def test_log_lines_name_options():
    assert in_terms_of_options("with the option update they are") == "with --update they are"
    assert in_terms_of_options("the option nobody knows") == "the option nobody knows"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--shard-size", "8X"],
            "--shard-size 8X: expected a number of clips, or a size such as 256MB, 8M or 1GiB, got",
        ),
        (
            ["--shard-size", '8"'],
            '--shard-size 8": expected a number of clips, or a size such as 256MB, 8M or 1GiB, got',
        ),
        (["--pool", "maen"], "--pool maen: expected mean, mean+std, max or window:SECONDS[,HOP], got 'maen'; did you"),
        (["--pool", "window:1,2"], "--pool window:1,2: expected windows with a HOP above 0 and up to SECONDS"),
        (["--set", "output.pool=maen"], "--set output.pool=maen: output.pool: expected mean, mean+std"),
        (["--shard-size", "8M", "--set", "seed=x"], "--set seed=x: seed: expected a whole number"),
    ],
)
def test_errors_about_settings_name_what_was_typed(tmp_path, clips, invoke, arguments, message):
    refused = invoke("extract", clips, "-o", tmp_path / "out", *arguments)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith(f"hlfeat: error: {message}"), refused.stderr


def test_errors_about_an_imported_checkpoint_name_what_was_typed(tmp_path, invoke):
    checkpoint = helpers.GOLDEN / "checkpoint/net_best_model.pth"
    for typed in (["--max-freq", "9000"], ["--window-len", "0"], ["--sample-rate", "0"]):
        refused = invoke("import-weights", checkpoint, "-o", tmp_path / "w.pt", *typed)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert refused.stderr.startswith(f"hlfeat: error: {' '.join(typed)}: expected"), refused.stderr
