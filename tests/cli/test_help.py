"""Help as a manual page: a summary, options, exit status, and examples that can be typed as they are; completion."""

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
from hlfeat.cli.parts import parse_part
from hlfeat.config.loading import config_names, load_config
from tests.conftest import command


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups of commands below one, with what has to be typed for them."""
    yield path, group
    for name, below in getattr(group, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = [path for path, _ in commands(typer.main.get_command(app))]
VERBS = {
    "Check",
    "Compute",
    "Convert",
    "Draw",
    "Take",
    "Export",
    "Extract",
    "Import",
    "List",
    "Measure",
    "Print",
    "Summarise",
    "Track",
    "Turn",
}


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(app, [*path, "--help"], terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.output


def section(path: tuple[str, ...], heading: str) -> list[str]:
    """The lines under a heading of a help."""
    text = re.search(rf"^ *{heading}:\n((?:  .*\n)+)", help_of(path), re.MULTILINE)
    assert text, f"{path}: no {heading}"
    return text[1].strip().split("\n")


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_summary_begins_with_a_verb_and_is_not_cut_off(path):
    summary = help_of(path).split("\n")[2].strip()
    assert summary.split()[0].rstrip(",") in VERBS
    assert summary.endswith(".")
    assert len(summary) < 50
    if path:
        assert f"{path[-1]} {summary}" in [" ".join(line.split()) for line in section(path[:-1], "Commands")]
    assert "…" not in help_of(path)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_exit_codes_come_after_the_options_and_before_environment_and_examples(path):
    headings = re.findall(r"^ *([A-Z][\w ]+):$", help_of(path), re.MULTILINE)
    order = ["Arguments", "Options", "Commands", "Exit status", "Environment", "Examples"]
    assert headings == [heading for heading in order if heading in headings]
    assert {"Options", "Exit status", "Examples"} <= set(headings)
    codes = [int(line.split()[0]) for line in section(path, "Exit status")]
    assert codes == sorted(codes)
    assert {Exit.DONE, Exit.FAILED, Exit.USAGE, Exit.INTERRUPTED} <= set(codes) <= set(Exit)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_ends_with_examples_that_parse(path, monkeypatch):
    calls: list[dict[str, Any]] = []
    root = typer.main.get_command(app)
    for below, one in commands(root):
        if below and not hasattr(one, "commands"):
            monkeypatch.setattr(one, "callback", lambda **arguments: calls.append(arguments))
    lines = section(path, "Examples")
    assert 1 <= len(lines) <= 4
    assert any(line.strip().startswith(" ".join(("hlfeat", *path))) or "| hlfeat" in line for line in lines)
    for line in lines:
        words = shlex.split(line)
        first = words.index("hlfeat") + 1
        end = next((i for i in range(first, len(words)) if words[i] in ("|", ">")), len(words))
        if "--help" in words:
            assert tuple(words[first : end - 1]) in ALL
            continue
        root.main(args=words[first:end], standalone_mode=False)
        arguments = calls.pop()
        for key in ("config", "name", "compare"):
            names = arguments.get(key)
            for name in [names] if isinstance(names, str) else names or []:
                if name in config_names():
                    load_config(name, [] if key == "compare" else arguments.get("settings") or [])
                else:
                    assert name.endswith(".yaml"), line
        if arguments.get("part"):
            parse_part(arguments["part"])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_a_terminal(path):
    assert max(map(len, help_of(path).splitlines())) <= 80


def test_help_of_extract_has_every_exit_status():
    assert [int(line.split()[0]) for line in section(("extract",), "Exit status")] == sorted(Exit)


@pytest.fixture
def completions(tmp_path):
    """What bash offers for the last word of a line, in a folder with two YAML files."""
    (tmp_path / "below").mkdir()
    for name in ("mine.yaml", "eleaf-mine.yml", "notes.txt", "below/other.yaml"):
        (tmp_path / name).touch()

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        request = {"_HLFEAT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        result = subprocess.run(
            [command()], env={**os.environ, **request}, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert not result.stderr
        return result.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hlfeat ex", ["extract", "export"]),
        ("hlfeat extract clips -c ", [*config_names(), "eleaf-mine.yml", "mine.yaml"]),
        ("hlfeat extract clips --config eleaf-m", ["eleaf-mine.yml"]),
        ("hlfeat plot a.wav --compare log", ["log-harmonic", "log-mel", "log-mel-48k"]),
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
def test_completion(completions, line, expected):
    assert completions(line) == expected


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
    assert result.stdout.split() == ["log-harmonic", "log-mel", "log-mel-48k"]


def test_completion_is_installed_in_the_home_folder(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    subprocess.run([command(), "--install-completion", "bash"], env=environment, capture_output=True, check=True)
    assert ".bash_completions/hlfeat.sh" in (tmp_path / ".bashrc").read_text()
    assert "_HLFEAT_COMPLETE=complete_bash" in (tmp_path / ".bash_completions/hlfeat.sh").read_text()
