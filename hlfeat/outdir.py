"""The output directory: its lock, its fingerprint, what earlier runs left in it, and its small files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import yaml

from hlfeat.errors import OUT_OF_FILES, OutputError, UsageError
from hlfeat.parts import WHOLE, Part, shard_place, statistics_name
from hlfeat.shards import TEMPORARY, Record, json_lines, write_atomically

PART = r"(-p\d+of\d+)?"
OURS = re.compile(
    rf"(shard{PART}-\d{{5,}}\.(npy|pt|jsonl)|stats{PART}-\d{{5,}}\.json|hlfeat{PART}\.yaml|failures{PART}\.jsonl"
    rf"|report{PART}\.json)(\.tmp)?|hlfeat{PART}\.(lock|busy)"
)


def shard_indexes(folder: Path) -> dict[tuple[Part, int], Path]:
    """The index files of all committed shards by part and number, in this order."""
    found = {place: p for p in folder.iterdir() if p.suffix == ".jsonl" and (place := shard_place(p.stem))}
    return dict(sorted(found.items()))


INDEX_KEYS = {"id": str, "path": str, "shard": str, "row": int, "frames": int, "duration": float}
LONGEST = 1e12  # seconds: longer than anything recorded, and sums of them are still numbers
FILES = {"weights": "the weights", "stats": "the statistics"}  # keys of hlfeat.yaml: other files, by their SHA-256
FAILURE_KEYS = {"id": str, "path": str, "code": str, "message": str, "shard": str}


def read_records(path: Path, keys: Mapping[str, type]) -> Iterator[Record]:
    """The lines of an index or of failures.jsonl, each with these keys of these types."""
    for _, record in read_lines(path, keys):
        yield record


def read_lines(path: Path, keys: Mapping[str, type]) -> Iterator[tuple[int, Record]]:
    """The same, each with the place of its first byte in the file."""
    number = place = 0
    kinds = tuple(keys.items())
    decode = json.JSONDecoder().raw_decode  # json.loads takes half as long again for a short line
    try:
        with open(path, encoding="ascii", newline="\n") as f:
            for line in f:
                number += 1
                record, end = decode(line)
                if not isinstance(record, dict) or line[end:].strip():
                    raise ValueError(f"expected {', '.join(keys)}")
                for key, kind in kinds:
                    if not isinstance(record.get(key), kind):
                        raise ValueError(f"expected {', '.join(keys)}")
                    if kind is float and not 0 <= record[key] <= LONGEST:
                        raise ValueError(f"expected a {key} in seconds, got {record[key]}")
                yield place, record
                place += len(line)
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise OutputError(f"{path}: damaged: line {number}: {e}") from e


def check_shard(path: Path, rows: int) -> None:
    """Raises OutputError where a shard's data is not there, or not all of it. Does not read it."""
    try:
        if path.suffix == ".npy" and len(np.load(path, mmap_mode="r")) == rows:
            return
        if path.suffix == ".pt" and path.stat().st_size and is_zipfile(path):  # whose directory stands at its end
            return
    except Exception as e:  # numpy has no one error for a header that is none
        if isinstance(e, OSError) and e.errno in OUT_OF_FILES:
            raise
        raise OutputError(f"{path}: damaged: {e or type(e).__name__}; --overwrite starts anew") from e
    raise OutputError(f"{path}: damaged: shorter or longer than its index says; --overwrite starts anew")


def disk_error(e: OSError, folder: Path) -> OutputError:
    """What a failed write means to a person."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{folder}: no space left on the disk; finished shards are kept: "
            "free some space and run the same command again"
        )
    if e.errno in OUT_OF_FILES:
        return OutputError("too many open files: raise the limit (ulimit -n), and run the same command again")
    return OutputError(f"{folder}: cannot be written: {e.strerror or e}")


class OutputDir:
    """A directory that one run writes to: made, locked, and checked against the fingerprint.

    The lock is on the directory itself and belongs to the process: a killed run leaves none behind. Runs of different
    parts share it, and each has one of its own on a file, which is gone when the run is done.

    Args:
        folder: created where it is missing.
        part: of the inputs, that the run is about.

    Raises:
        OutputError: cannot be made or written, or another run is at work in it.
    """

    def __init__(self, folder: Path, part: Part = WHOLE) -> None:
        self.folder, self.part = folder, part
        self._part_lock: int | None = None
        self._lock_file = folder / part.file("hlfeat.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            what = (
                "expected a folder, found a file" if isinstance(e, FileExistsError | NotADirectoryError) else e.strerror
            )
            raise OutputError(f"{folder}: cannot be used as output: {what}") from e
        try:
            if part == WHOLE:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self._part_lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(self._part_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self._part_lock).st_nlink == 0:  # whoever had it has just removed it
                    raise BlockingIOError
        except BlockingIOError as e:
            self._close()
            doing = "" if part == WHOLE else f" part {part}"
            raise OutputError(f"{folder}: another run is writing{doing} here") from e
        except OSError as e:
            self._close()
            raise OutputError(f"{folder}: cannot be used as output: {e.strerror}") from e

    def _close(self) -> None:
        if self._part_lock is not None:
            os.close(self._part_lock)
        os.close(self._lock)

    def close(self) -> None:
        """Give up the lock."""
        if self._part_lock is not None:
            with suppress(OSError):
                self._lock_file.unlink()
        self._close()

    def __enter__(self) -> OutputDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, description: dict[str, Any], overwrite: bool) -> None:
        """Write hlfeat.yaml, or check the one that is there.

        With `overwrite`, what an earlier run wrote is removed first, and nothing else.

        Raises UsageError where the features there have another fingerprint, or files of these names are not hlfeat's.
        """
        path = self.folder / "hlfeat.yaml"
        if overwrite and self.part != WHOLE:
            raise UsageError(
                "--overwrite does not go with parts, as it would remove the others' work: remove the folder"
            )
        ours = [p for p in self.folder.iterdir() if OURS.fullmatch(p.name) and p.suffix != ".lock"]
        others = {there.of for there, _ in shard_indexes(self.folder)}
        told = (re.match(r"(?:failures|report)-p\d+of(\d+)\.jsonl?$", p.name) for p in ours)
        others |= {int(found[1]) for found in told if found}
        for of in sorted(others - {self.part.of}):
            if not overwrite:
                raise UsageError(
                    f"{self.folder}: holds features of a run in {_parts(of)}, not in {_parts(self.part.of)}; "
                    "choose another folder"
                )
        if ours and not path.exists() and any(p.suffix != TEMPORARY for p in ours):
            names = ", ".join(sorted(p.name for p in ours)[:3])
            raise UsageError(f"{self.folder}: has {names} but no hlfeat.yaml, so they are not hlfeat's to touch")
        continued = path.exists() and not overwrite
        if continued:
            self._compare(description)
        self._clean(ours, everything=not continued and self.part == WHOLE)
        if not continued:
            text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
            write_atomically(path, text.encode(), beside=self.part.file("hlfeat.yaml"))
            self._compare(description)  # of two parts that begin at once, one has had the last word

    def _compare(self, description: dict[str, Any]) -> None:
        there = read_description(self.folder)
        if there.get("fingerprint") != description["fingerprint"]:
            keys = ", ".join(_differences(there, description)) or "the configuration"
            raise UsageError(
                f"{self.folder}: holds features of another configuration ({keys} differ); "
                "choose another folder, or --overwrite"
            )
        theirs, ours = (d.get("inputs") or {} for d in (there, description))
        if self.part != WHOLE and theirs != ours:  # parts of different lists overlap, or leave clips out
            raise UsageError(
                f"{self.folder}: holds parts of another list of clips ({theirs.get('clips')} then, {ours['clips']} "
                "now); choose another folder for the clips that are new"
            )

    def _clean(self, ours: list[Path], everything: bool) -> None:
        """Remove what a killed run left half-made, or all that runs have written."""
        committed = {p.stem for p in ours if p.suffix == ".jsonl" and shard_place(p.stem)}
        statistics = {statistics_name(shard) for shard in committed}
        # commit marks go first and hlfeat.yaml, the sign that the rest is ours, last
        for path in sorted(ours, key=lambda p: (p.name == "hlfeat.yaml", p.suffix != ".jsonl", p.name)):
            own = self.part.label == (found[0] if (found := re.search(r"-p\d+of\d+", path.name)) else "")
            orphan = (path.suffix in (".npy", ".pt") and path.stem not in committed) or (
                path.name.startswith("stats") and path.name not in statistics
            )
            if everything or (own and (orphan or path.suffix == TEMPORARY)):
                path.unlink()

    def check_place(self) -> None:
        """Raises OutputError if the folder has been moved away or removed since it was locked."""
        try:
            same = os.path.samestat(os.stat(self.folder), os.fstat(self._lock))
        except OSError:
            same = False
        if not same:
            raise OutputError(f"{self.folder}: was removed or moved away while the run was writing to it")

    def committed(self) -> Iterator[tuple[int, list[Record]]]:
        """Numbers of the finished shards of this part and their index lines, in order.

        Raises OutputError where an index is damaged, or a shard's data is missing or shorter than its index says.
        """
        for (part, number), index in shard_indexes(self.folder).items():
            if part == self.part:
                records = list(read_records(index, INDEX_KEYS))
                rows = 0
                for r in records:
                    if r["row"] != rows:
                        raise OutputError(f"{index}: damaged: row {r['row']} where {rows} was expected")
                    rows += r["frames"]
                if not records:
                    raise OutputError(f"{index}: damaged: there is no clip in it")
                check_shard(self.folder / records[-1]["shard"], rows)
                yield number, records

    def uncommit(self, number: int) -> None:
        """Take a finished shard back, its index first."""
        shard = self.part.shard(number)
        for name in (f"{shard}.jsonl", self.part.statistics(number), f"{shard}.npy", f"{shard}.pt"):
            (self.folder / name).unlink(missing_ok=True)

    def failures(self) -> list[Record]:
        """The failures that earlier runs of this part recorded."""
        path = self.folder / self.part.file("failures.jsonl")
        return list(read_records(path, FAILURE_KEYS)) if path.exists() else []

    def write_failures(self, failures: list[Record]) -> None:
        """Replace failures.jsonl, or the part's."""
        write_atomically(self.folder / self.part.file("failures.jsonl"), json_lines(failures))

    def begin(self) -> None:
        """There is something to do: the part is not complete any more."""
        if self.part != WHOLE:
            (self.folder / self.part.file("report.json")).unlink(missing_ok=True)

    def finish(self, report: Record, merge: Callable[[list[Record]], Record]) -> bool:
        """Write the report. True if the directory is complete, which with parts it is when all of them are.

        The last part to finish writes failures.jsonl and report.json of the whole. Should two parts both be the last,
        they write the same.
        """
        self._write_json(self.part.file("report.json"), report)
        if self.part == WHOLE:
            return True
        parts = WHOLE.split(self.part.of)
        try:
            reports = [json.loads((self.folder / p.file("report.json")).read_bytes()) for p in parts]
            failures = b"".join((self.folder / p.file("failures.jsonl")).read_bytes() for p in parts)
            report = merge(reports)
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise OutputError(f"{self.folder}: the report of another part is damaged: run that part again") from e
        # beside names of this part's own: others may be at the same
        write_atomically(self.folder / "failures.jsonl", failures, self.part.file("failures.jsonl"))
        self._write_json("report.json", report)
        return True

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        text = json.dumps(value, indent=2) + "\n"
        write_atomically(self.folder / name, text.encode(), self.part.file("report.json"))


def _parts(n: int) -> str:
    return "one part" if n == 1 else f"{n} parts"


def read_description(folder: Path) -> dict[str, Any]:
    """hlfeat.yaml of a feature directory."""
    path = folder / "hlfeat.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise OutputError(f"{folder}: not a feature directory: there is no hlfeat.yaml in it") from e
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise OutputError(f"{path}: damaged: {' '.join(str(e).split())}") from e
    if not isinstance(description, dict) or not all(isinstance(description.get(key) or {}, dict) for key in FILES):
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
    files = [name for key, name in FILES.items() if _sha256(a, key) != _sha256(b, key)]
    return [k for k in found if k != "description"] + files


def _sha256(description: dict[str, Any], key: str) -> Any:
    return (description.get(key) or {}).get("sha256")
