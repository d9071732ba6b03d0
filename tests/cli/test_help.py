"""Help as a manual page: it ends with examples, which can be typed as they are; and what a shell completes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hlfeat.cli.app import app
from hlfeat.cli.errors import Exit
from hlfeat.cli.job import parse_part
from hlfeat.config.loading import config_names, load_config
from tests.conftest import command


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups of commands below one, with what has to be typed for them."""
    yield path, group
    for name, below in getattr(group, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = [path for path, _ in commands(typer.main.get_command(app))]


def help_of(path: tuple[str, ...]) -> str:
    found = CliRunner().invoke(app, [*path, "--help"], terminal_width=80)
    assert found.exit_code == 0, found.output
    return found.output


def examples(path: tuple[str, ...]) -> list[str]:
    """The lines under the last heading of a help."""
    return re.split(r"\n  Examples:\n", help_of(path))[1].strip().split("\n")


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_ends_with_examples_that_parse(path, monkeypatch):
    seen: list[dict[str, Any]] = []
    root = typer.main.get_command(app)
    for below, one in commands(root):
        if below and not hasattr(one, "commands"):
            monkeypatch.setattr(one, "callback", lambda **given: seen.append(given))
    lines = examples(path)
    assert 1 <= len(lines) <= 4
    assert any(line.strip().startswith(" ".join(("hlfeat", *path))) or "| hlfeat" in line for line in lines)
    for line in lines:
        words = shlex.split(line)
        at = words.index("hlfeat") + 1
        end = next((i for i in range(at, len(words)) if words[i] in ("|", ">")), len(words))
        if "--help" in words:
            assert tuple(words[at : end - 1]) in ALL
            continue
        root.main(args=words[at:end], standalone_mode=False)
        given = seen.pop()
        for key in ("config", "name", "compare"):
            found = given.get(key)
            for name in [found] if isinstance(found, str) else found or []:
                if name in config_names():
                    load_config(name, [] if key == "compare" else given.get("settings") or [])
                else:
                    assert name.endswith(".yaml"), line
        if given.get("part"):
            parse_part(given["part"])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_a_terminal(path):
    assert max(map(len, help_of(path).splitlines())) <= 80


def test_help_of_extract_has_every_exit_status():
    for code in Exit:
        assert re.search(rf"^    {code.value} +\w", help_of(("extract",)), re.MULTILINE)


@pytest.fixture
def completions(tmp_path):
    """What bash is told to offer where a line's last word is not yet complete, in a folder with two YAML files."""
    (tmp_path / "below").mkdir()
    for name in ("mine.yaml", "eleaf-mine.yml", "notes.txt", "below/other.yaml"):
        (tmp_path / name).touch()

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        told = {"_HLFEAT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        found = subprocess.run(
            [command()], env={**os.environ, **told}, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert not found.stderr
        return found.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("hlfeat ex", ["extract", "export"]),
        ("hlfeat extract clips -c ", [*config_names(), "eleaf-mine.yml", "mine.yaml"]),
        ("hlfeat extract clips --config eleaf-m", ["eleaf-mine.yml"]),
        ("hlfeat plot a.wav --compare log", ["log-harmonic", "log-mel"]),
        ("hlfeat config show eleaf-h", ["eleaf-harmonic", "eleaf-harmonic-mixed"]),
        ("hlfeat config check below/", ["below/other.yaml"]),
        ("hlfeat export nowhere/", []),
        ("hlfeat extract --on-error s", ["skip", "stop"]),
        ("hlfeat extract --format ", ["npy", "pt"]),
        ("hlfeat extract --dtype ", ["float32", "float16"]),
        ("hlfeat bench harmonic --device c", ["cpu", "cuda"]),
        ("hlfeat extract mi", []),  # the shell's own: files
    ],
)
def test_completion(completions, line, wanted):
    assert completions(line) == wanted


def test_bash_completes(tmp_path):
    """The function that --show-completion defines, called as bash calls it."""
    line = (
        'source <("$0" --show-completion bash); COMP_WORDS=(hlfeat extract -c log) COMP_CWORD=3; '
        '_hlfeat_completion "$0"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    result = subprocess.run(
        ["bash", "-c", line, command()], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["log-harmonic", "log-mel"]


def test_completion_is_installed_in_the_home_folder(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    subprocess.run([command(), "--install-completion", "bash"], env=environment, capture_output=True, check=True)
    assert ".bash_completions/hlfeat.sh" in (tmp_path / ".bashrc").read_text()
    assert "_HLFEAT_COMPLETE=complete_bash" in (tmp_path / ".bash_completions/hlfeat.sh").read_text()
