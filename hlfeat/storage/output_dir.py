"""The output directory: its lock, its fingerprint, what earlier runs left in it, and its small files."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from hlfeat.errors import OutputError, UsageError
from hlfeat.files import TEMPORARY, json_lines, write_atomically
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.description import differences, read_description
from hlfeat.storage.formats import check_shard
from hlfeat.storage.layout import OURS, shard_indexes, shard_place, statistics_name
from hlfeat.storage.records import FAILURE_KEYS, INDEX_KEYS, Record, read_records


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
            raise UsageError("overwrite: expected without parts, as it removes the others' work: remove the folder")
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
            keys = ", ".join(differences(there, description)) or "the configuration"
            raise UsageError(
                f"{self.folder}: holds features of another configuration ({keys} differ); choose another folder",
                remedy="overwrite",
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
