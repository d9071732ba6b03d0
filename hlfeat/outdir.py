"""The output directory: its lock, its fingerprint, what earlier runs left in it, and its small files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hlfeat.errors import OutputError, UsageError
from hlfeat.shards import TEMPORARY, Record, json_lines, shard_name, write_atomically

OURS = re.compile(r"(shard-\d{5,}\.(npy|pt|jsonl)|hlfeat\.yaml|failures\.jsonl|report\.json)(\.tmp)?")
SHARD_INDEX = re.compile(r"shard-(\d{5,})\.jsonl")


def shard_indexes(folder: Path) -> list[Path]:
    """The index files of all committed shards, in the order of their numbers."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := SHARD_INDEX.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


INDEX_KEYS = {"id": str, "path": str, "shard": str, "row": int, "frames": int, "duration": float}
FAILURE_KEYS = {"id": str, "path": str, "code": str, "message": str, "shard": str}


def read_records(path: Path, keys: Mapping[str, type]) -> Iterator[Record]:
    """The lines of an index or of failures.jsonl, each with these keys of these types."""
    number = 0
    try:
        with open(path, encoding="ascii") as f:
            for line in f:
                number += 1
                record = json.loads(line)
                if not isinstance(record, dict) or not all(isinstance(record.get(k), t) for k, t in keys.items()):
                    raise ValueError(f"expected {', '.join(keys)}")
                yield record
    except (ValueError, RecursionError, OSError) as e:
        raise OutputError(f"{path}: damaged: line {number}: {e}") from e


def check_shard(path: Path, rows: int) -> None:
    """Raises OutputError where a shard's data is not there, or not all of it. Does not read it."""
    try:
        if path.suffix == ".npy" and len(np.load(path, mmap_mode="r")) == rows:
            return
        if path.suffix == ".pt" and path.stat().st_size:
            return
    except (OSError, ValueError) as e:
        raise OutputError(f"{path}: damaged: {e}; --overwrite starts anew") from e
    raise OutputError(f"{path}: damaged: shorter or longer than its index says; --overwrite starts anew")


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

    Raises:
        OutputError: cannot be made or written, or another run is at work in it.
    """

    def __init__(self, folder: Path) -> None:
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
        except BlockingIOError as e:
            os.close(self._lock)
            raise OutputError(f"{folder}: another run is writing here") from e

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._lock)

    def __enter__(self) -> OutputDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, description: dict[str, Any], overwrite: bool) -> bool:
        """Write hlfeat.yaml, or check the one that is there. True if an earlier run is continued.

        With `overwrite`, what an earlier run wrote is removed first, and nothing else.

        Raises UsageError where the features there have another fingerprint, or files of these names are not hlfeat's.
        """
        path = self.folder / "hlfeat.yaml"
        ours = [p for p in self.folder.iterdir() if OURS.fullmatch(p.name)]
        if ours and not path.exists() and any(p.suffix != TEMPORARY for p in ours):
            names = ", ".join(sorted(p.name for p in ours)[:3])
            raise UsageError(f"{self.folder}: has {names} but no hlfeat.yaml, so they are not hlfeat's to touch")
        if path.exists() and not overwrite:
            there = read_description(self.folder)
            if there.get("fingerprint") != description["fingerprint"]:
                keys = ", ".join(_differences(there, description)) or "the configuration"
                raise UsageError(
                    f"{self.folder}: holds features of another configuration ({keys} differ); "
                    "choose another folder, or --overwrite"
                )
        continued = path.exists() and not overwrite
        self._clean(ours, everything=not continued)
        if not continued:
            write_atomically(path, yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode())
        return continued

    def _clean(self, ours: list[Path], everything: bool) -> None:
        """Remove what a killed run left half-made, or all that runs have written."""
        committed = {p.stem for p in ours if SHARD_INDEX.fullmatch(p.name)}
        # commit marks go first and hlfeat.yaml, the sign that the rest is ours, last
        for path in sorted(ours, key=lambda p: (p.name == "hlfeat.yaml", p.suffix != ".jsonl", p.name)):
            orphan = path.suffix in (".npy", ".pt") and path.stem not in committed
            if everything or orphan or path.suffix == TEMPORARY:
                path.unlink()

    def check_place(self) -> None:
        """Raises OutputError if the folder has been moved away or removed since it was locked."""
        try:
            same = os.path.samestat(os.stat(self.folder), os.fstat(self._lock))
        except OSError:
            same = False
        if not same:
            raise OutputError(f"{self.folder}: was removed or moved away while the run was writing to it")

    def committed(self) -> tuple[int, dict[str, Record]]:
        """Number of the next shard, and the index line of each clip that is done, by id, in order.

        Raises OutputError where a shard is missing or shorter than its index says.
        """
        done: dict[str, Record] = {}
        number = 0
        for index in shard_indexes(self.folder):
            if index.stem != shard_name(number):
                raise OutputError(f"{self.folder}: {shard_name(number)} is missing; --overwrite starts anew")
            number += 1
            records = list(read_records(index, INDEX_KEYS))
            done.update((r["id"], r) for r in records)
            if records:
                check_shard(self.folder / records[-1]["shard"], records[-1]["row"] + records[-1]["frames"])
        return number, done

    def failures(self) -> list[Record]:
        """The failures that earlier runs recorded."""
        path = self.folder / "failures.jsonl"
        return list(read_records(path, FAILURE_KEYS)) if path.exists() else []

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
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise OutputError(f"{path}: damaged: {' '.join(str(e).split())}") from e
    if not isinstance(description, dict) or not isinstance(description.get("weights") or {}, dict):
        raise OutputError(f"{path}: damaged: not what a run writes")
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
