"""The output directory: its lock, its fingerprint, what earlier runs left in it, and its small files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hlfeat.errors import OutputError, UsageError
from hlfeat.shards import TEMPORARY, Record, json_lines, shard_name, write_atomically

OURS = re.compile(r"(shard-\d{5,}\.(npy|pt|jsonl)|hlfeat\.yaml|failures\.jsonl|report\.json)(\.tmp)?")
SHARD_INDEX = re.compile(r"shard-(\d{5,})\.jsonl")


def shard_indexes(folder: Path) -> list[Path]:
    """The index files of all committed shards, in the order of their numbers."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := SHARD_INDEX.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def read_records(path: Path) -> Iterator[Record]:
    """The lines of an index or of failures.jsonl."""
    try:
        with open(path, encoding="ascii") as f:
            for number, line in enumerate(f, 1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"line {number} is no object")
                yield record
    except (ValueError, OSError) as e:
        raise OutputError(f"{path}: damaged: {e}") from e


def disk_error(e: OSError, folder: Path) -> OutputError:
    """What a failed write means to a person."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{folder}: no space left on the disk; finished shards are kept: "
            "free some space and run the same command again"
        )
    return OutputError(f"{folder}: cannot be written: {e.strerror or e}")


class OutputDir:
    """A directory that one run writes to: made, locked, and checked against the fingerprint.

    The lock is on the directory itself and belongs to the process: a killed run leaves none behind.

    Args:
        folder: created where it is missing.
        overwrite: remove what an earlier run wrote (and nothing else).

    Raises:
        OutputError: cannot be made or written, or another run is at work in it.
    """

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            what = (
                "expected a folder, found a file" if isinstance(e, FileExistsError | NotADirectoryError) else e.strerror
            )
            raise OutputError(f"{folder}: cannot be used as output: {what}") from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clean(everything=overwrite)
        except BlockingIOError as e:
            os.close(self._lock)
            raise OutputError(f"{folder}: another run is writing here") from e
        except OSError as e:
            os.close(self._lock)
            raise disk_error(e, folder) from e

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._lock)

    def __enter__(self) -> OutputDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _clean(self, everything: bool) -> None:
        """Remove what a killed run left half-made, or all that runs have written."""
        committed = {p.stem for p in shard_indexes(self.folder)}
        for path in sorted(self.folder.iterdir(), key=lambda p: p.suffix != ".jsonl"):  # commit marks go first
            if not OURS.fullmatch(path.name):
                continue
            orphan = path.suffix in (".npy", ".pt") and path.stem not in committed
            if everything or orphan or path.suffix == TEMPORARY:
                path.unlink()

    def adopt(self, description: dict[str, Any]) -> bool:
        """Write hlfeat.yaml, or check the one that is there. True if an earlier run is continued.

        Raises UsageError where it has another fingerprint.
        """
        path = self.folder / "hlfeat.yaml"
        if not path.exists():
            if shard_indexes(self.folder):
                raise UsageError(f"{self.folder}: has shards but no hlfeat.yaml; --overwrite removes them")
            write_atomically(path, yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode())
            return False
        there = read_description(self.folder)
        if there.get("fingerprint") != description["fingerprint"]:
            keys = ", ".join(_differences(there, description)) or "the configuration"
            raise UsageError(
                f"{self.folder}: holds features of another configuration ({keys} differ); "
                "choose another folder, or --overwrite"
            )
        return True

    def committed(self) -> tuple[int, dict[str, float]]:
        """Number of the next shard, and the duration of each clip that is done, by id, in order."""
        done: dict[str, float] = {}
        number = 0
        for index in shard_indexes(self.folder):
            if index.stem != shard_name(number):
                raise OutputError(f"{self.folder}: {shard_name(number)} is missing; --overwrite starts anew")
            number += 1
            done.update((r["id"], r["duration"]) for r in read_records(index))
        return number, done

    def failures(self) -> list[Record]:
        """The failures that earlier runs recorded."""
        path = self.folder / "failures.jsonl"
        return list(read_records(path)) if path.exists() else []

    def write_failures(self, failures: list[Record]) -> None:
        """Replace failures.jsonl."""
        write_atomically(self.folder / "failures.jsonl", json_lines(failures))

    def write_report(self, report: dict[str, Any]) -> None:
        """Replace report.json."""
        write_atomically(self.folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())


def read_description(folder: Path) -> dict[str, Any]:
    """hlfeat.yaml of a feature directory."""
    path = folder / "hlfeat.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise OutputError(f"{folder}: not a feature directory: there is no hlfeat.yaml in it") from e
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise OutputError(f"{path}: damaged: {' '.join(str(e).split())}") from e
    if not isinstance(description, dict):
        raise OutputError(f"{path}: damaged: expected keys, got {type(description).__name__}")
    return description


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Dotted names of the settings in which two descriptions differ."""
    found = []

    def compare(x: Any, y: Any, key: str) -> None:
        if isinstance(x, dict) and isinstance(y, dict):
            for name in dict.fromkeys([*x, *y]):
                compare(x.get(name), y.get(name), f"{key}.{name}" if key else str(name))
        elif x != y:
            found.append(key)

    compare(a.get("config"), b.get("config"), "")
    weights = [(d.get("weights") or {}).get("sha256") for d in (a, b)]
    return [k for k in found if k != "description"] + (["the weights"] if weights[0] != weights[1] else [])
