"""Runs the blocks of a page in order, and compares what they print with what the page says they print.

| language | what is done with it |
|---|---|
| `sh` | run by bash; every command has to succeed |
| `python` | run; the blocks of a page share their names |
| `console` | lines after `$ ` are run by one shell; their output (both streams) has to be the lines that follow |
| `yaml` | saved under the name in its first line, `# mine.yaml`; without a name, only shown |
| `text`, `json` | only shown |

Comments directly below a line with `print(` are what it prints.

A line `...` stands for any lines, `...` within a line for any text. Times, speeds and rounding errors may differ, and
numbers with a decimal point by a hundredth.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.docs.markdown import Block, blocks, is_extension

LANGUAGES = {"sh", "python", "console", "yaml", "text", "json"}

# What is not run, and why. A command that contains the words on the left is left out.
NOT_RUN = {
    "pip install": "needs the network, and would change the environment of the tests",
    "scripts/demo.sh": "installs the project first; the fixtures and plots.md run its two halves",
    "scripts/test.sh": "runs these tests",
    "--install-completion": "changes the shell of whoever runs the tests; tested elsewhere with another home folder",
    "python -m scripts.evidence": "takes an hour, and data of others; tested elsewhere with small inputs",
    "scripts/measure_remote.py": "measures for a minute",
    "hlfeat bench": "measures for minutes; tested elsewhere with small inputs",
    "scripts/gpu_check.sh": "needs a GPU",
    "scripts/tune_harmonic.py": "needs a GPU",
    "torchrun": "several processes, or machines; tested elsewhere",
    "/shared/clips": "goes on in the line of torchrun or of a cluster",
    "ray start": "a cluster of several machines; tested elsewhere with two nodes on one",
    "--on ray": "the same",
    "ray stop": "the same",
    "s3://bucket": "needs a bucket; tested elsewhere with a server on loopback",
    "https://host": "the same",
    "-o s3://": "the same",
    "hear-validator": "is a package of its own, which hlfeat does not depend on; hlfeat.hear is tested elsewhere",
}

# What a machine without a GPU, without SLURM and in a hurry runs instead. The options stay.
INSTEAD = {
    "cuda:0,cuda:1": "cpu,cpu",
    "--array=1-16": "--array=1-2",
    "--epochs 20": "--epochs 1",
}

# What differs from run to run and from machine to machine.
VARIES = [
    r"in \d+\.\d s \(\d+ times real time\) on \w+ \(\d+ threads?\)",
    r"\d+(\.\d+)?e-\d+",
]


def run_page(page: Path) -> None:
    """Run all blocks of a page in the current folder. AssertionError names the file and the line of what is wrong."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if is_extension(block):  # tests/docs/test_extensions.py
            continue
        if block.language == "sh":
            run_shell(block)
        elif block.language == "console":
            run_console(block)
        elif block.language == "python":
            run_python(block, names)
        elif block.language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block.text)):
            Path(name[1]).write_text(block.text, encoding="utf-8")


def run_shell(block: Block) -> None:
    script = "\n".join(runnable(block.text.splitlines()))
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"{block.place}: exit status {result.returncode}\n{script}\n{result.stderr}"


def run_python(block: Block, names: dict[str, Any]) -> None:
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    expected = printed_lines(block.text)
    if expected:
        compare(block, expected, printed.getvalue().splitlines())


def run_console(block: Block) -> None:
    steps = console_steps(block.text)
    commands = [command for command, _ in steps]
    run = [step for step, command in zip(steps, commands, strict=True) if runnable([command])]
    # Each command in the same shell, so that `$?` means what a reader takes it to mean; NUL ends its output.
    script = "".join(f"{instead(command)}\nstatus=$?; printf '\\0'; (exit $status)\n" for command, _ in run)
    result = subprocess.run(
        ["bash", "-c", "exec 2>&1\n" + script], stdout=subprocess.PIPE, text=True, timeout=300, check=False
    )
    outputs = result.stdout.split("\0")
    for (command, expected), output in zip(run, outputs, strict=False):
        compare(block, expected, [line.rstrip() for line in output.splitlines()], command)


def runnable(commands: Sequence[str]) -> list[str]:
    """Those that can be run here, with the stand-ins that they need."""
    return [instead(c) for c in commands if not any(words in c for words in NOT_RUN)]


def instead(command: str) -> str:
    for words, other in INSTEAD.items():
        command = command.replace(words, other)
    return command


def console_steps(text: str) -> list[tuple[str, list[str]]]:
    """Commands and the lines they print; a command goes on in the next line after a backslash."""
    steps: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if steps and steps[-1][0].endswith("\\") and not steps[-1][1]:
            steps[-1] = (f"{steps[-1][0]}\n{line}", [])
        elif line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line.rstrip())
    return steps


def printed_lines(code: str) -> list[str]:
    """What a Python block says that it prints."""
    below = re.findall(r"^ *print\(.*\n((?: *# .*\n)+)", code, re.MULTILINE)
    return [line.strip()[2:] for comments in below for line in comments.splitlines()]


def compare(block: Block, expected: Sequence[str], output: Sequence[str], command: str = "") -> None:
    """AssertionError if the lines do not match."""
    message = "\n".join([f"{block.place}: {command}", "expected:", *expected, "got:", *output])
    if expected and not expected[-1]:
        expected = expected[:-1]  # the empty line between two commands
    assert matches(expected, output), message


def matches(expected: Sequence[str], output: Sequence[str]) -> bool:
    if not expected:
        return not output
    if expected[0].strip() == "...":
        return any(matches(expected[1:], output[i:]) for i in range(len(output) + 1))
    return bool(output) and line_matches(expected[0], output[0]) and matches(expected[1:], output[1:])


def line_matches(expected: str, line: str) -> bool:
    expected, line = (re.sub("|".join(VARIES), "~", text) for text in (expected, line))
    number = r"(-?\d+\.\d+)"
    pattern, values = "", []
    for piece in re.split(rf"(\.\.\.)|{number}", expected):
        if piece == "...":
            pattern += ".*"
        elif piece and re.fullmatch(number, piece):
            pattern += number
            values.append(float(piece))
        elif piece:
            pattern += re.escape(piece)
    match = re.fullmatch(pattern, line)
    close = match and zip(values, map(float, match.groups()), strict=True)
    return close is not None and all(abs(a - b) <= 0.01 * abs(a) + 1e-9 for a, b in close)
