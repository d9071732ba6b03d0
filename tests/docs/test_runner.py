"""The runner notices what is wrong with a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.runner import console_steps, line_matches, matches, printed_lines, run_page


@pytest.mark.parametrize(
    ("expected", "line", "same"),
    [
        ("a b", "a b", True),
        ("a b", "a c", False),
        ("a ... d", "a b c d", True),
        ("3 clips, 38.1 s", "3 clips, 38.2 s", True),
        ("3 clips, 38.1 s", "3 clips, 40.0 s", False),
        ("3 clips", "4 clips", False),
        (
            "in 0.4 s (98 times real time) on cpu (2 threads)",
            "in 1.2 s (7 times real time) on cpu (1 thread)",
            True,
        ),
        ("differ by 2.1e-07", "differ by 3e-08", True),
    ],
)
def test_lines(expected: str, line: str, same: bool) -> None:
    assert line_matches(expected, line) == same


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ([], [], True),
        ([], ["a"], False),
        (["a"], [], False),
        (["..."], [], True),
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["...", "b"], ["a", "b", "c"], False),
    ],
)
def test_outputs(expected: list[str], output: list[str], same: bool) -> None:
    assert matches(expected, output) == same


def test_steps_of_a_console() -> None:
    assert console_steps("$ a \\\n  b\nout\n\n$ c\n") == [("a \\\n  b", ["out", ""]), ("c", [])]


def test_comments_below_print() -> None:
    assert printed_lines("print(1)\n# 1\nx = 2\n# no\n    print(x)\n    # 2\n    # ...\n") == ["1", "2", "..."]


@pytest.mark.parametrize(
    "block",
    [
        "```sh\nfalse | cat\n```\n",
        "```sh\necho $UNSET_VARIABLE\n```\n",
        "```console\n$ echo a\nb\n```\n",
        "```console\n$ false\n$ echo $?\n0\n```\n",
        "```console\n$ echo a\n```\n",
        "```python\nprint(1)\n# 2\n```\n",
        "```python\nassert False\n```\n",
    ],
)
def test_wrong_blocks_fail(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.markdown.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(block)
    with pytest.raises(AssertionError):
        run_page(page)


def test_right_blocks_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.docs.markdown.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ false\n$ echo $?\n1\n$ echo a >&2\na\n```\n```yaml\n# a.yaml\nx: 1\n```\n"
        "```sh\ngrep x a.yaml\n```\n```python\nx = 1\n```\n```python\nprint(x)\n# 1\n```\n"
    )
    run_page(page)
