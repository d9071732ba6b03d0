"""Feature directories again: other shards, another dtype or format, as a run with that configuration writes them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hlfeat.conversion.described import convert_description
from hlfeat.conversion.identity import Marker
from hlfeat.conversion.source import Source, SourceClip
from hlfeat.conversion.target import Conversion, OpenShard, Target, cannot_hold, to_dtype
from hlfeat.errors import ClipError, UsageError
from hlfeat.files import json_lines, write_atomically
from hlfeat.statistics.moments import Moments, moments, no_moments
from hlfeat.statistics.shard_statistics import ShardStatistics
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import Layout, ShardFiles, own_files
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.run_dir import RunDir
from hlfeat.storage.run_parts import read_report
from hlfeat.storage.shard_writer import ShardWriter

_CONVERTED = "converted"  # the key of a report


class FeatureTarget(Target):
    """A feature directory of one of the formats of shards."""

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        identity = conversion.identity
        output = {"format": identity.format, "dtype": identity.dtype, "shard_size": identity.shard_size}
        self.description = convert_description(conversion.source.folder, output)
        self.marker = Marker(conversion.folder)
        self._new_failures: dict[str, FailureRecord] = {}  # what the dtype cannot hold, by the input's id
        self._finished: dict[int, list[IndexEntry]] = {}
        self._output: OutputDir | None = None

    @classmethod
    def check(cls, source: Source, dtype: np.dtype[Any] | None, frames: bool) -> np.dtype[Any]:
        dtype = super().check(source, dtype, frames)
        if dtype.itemsize > source.dtype.itemsize:
            raise UsageError(
                f"dtype: {source.folder} has {source.dtype.name}, which is rounded: a folder of {dtype.name} would "
                "pass for features that were computed so; extract them again"
            )
        return dtype

    def __enter__(self) -> FeatureTarget:
        self._output = OutputDir(self.conversion.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            self._output.close()

    @property
    def output(self) -> OutputDir:
        """The folder, which is locked."""
        assert self._output is not None
        return self._output

    @property
    def catalog(self) -> ShardCatalog:
        """What is finished in it."""
        return self.output.catalog

    def begin(self) -> bool:
        folder, identity = self.conversion.folder, self.conversion.identity
        record, report = self.marker.read(), read_report(self.output.layout.report) or {}
        if record is not None:
            identity.check_same(folder, record.get("conversion"))
        elif isinstance(report.get(_CONVERTED), dict):
            identity.check_same(folder, report[_CONVERTED].get("conversion"))
            if self._is_all_there(report):
                self.failed = report[_CONVERTED].get("failed", 0)
                return False
        elif self.output.layout.description.exists() and _has_results(folder):
            raise UsageError(f"{folder}: holds features that were not converted; choose another folder")
        self.output.initialise_or_resume(self.description, overwrite=False)
        self.marker.clean()
        self.marker.write(identity, {}, complete=False)
        self._finished = dict(self.catalog.finished_shards())
        if not set(self._finished) <= set(self.conversion.plan.numbers):
            raise self._has_clips_of_a_run()
        return True

    def _is_all_there(self, report: Mapping[str, Any]) -> bool:
        """Whether nothing of a finished conversion was removed since, by `hlfeat repair` for instance."""
        files = self.output.layout.description, self.output.layout.failures
        clips = sum(len(entries) for _, entries in self.catalog.finished_shards())
        return all(path.exists() for path in files) and clips == report.get("clips")

    def is_finished(self, number: int) -> bool:
        return number in self._finished

    def skip(self, number: int, clips: Iterable[SourceClip]) -> None:
        """Clips that are not in the index of a finished shard are those that the dtype could not hold."""
        written = iter(self._finished[number])
        entry = next(written, None)
        for clip in clips:
            if entry is not None and entry.id == clip.entry.id:
                entry = next(written, None)
            else:
                self.record_failure(clip, number)
        if entry is not None:
            raise self._has_clips_of_a_run()

    def _has_clips_of_a_run(self) -> UsageError:
        """The error of a folder with more clips than the conversion has written."""
        return UsageError(f"{self.conversion.folder}: a run has added clips to it; choose another folder")

    def open(self, number: int) -> AbstractContextManager[OpenShard]:
        return FeatureShard(self, number)

    def record_failure(self, clip: SourceClip, number: int) -> None:
        """Record a clip whose features the dtype cannot hold, once for all channels of its file."""
        entry, shard = clip.entry, self.output.layout.shard_name(number)
        message = cannot_hold(self.conversion.dtype)
        record = FailureRecord(clip.group, entry.path, "non-finite", message, shard, entry.member, entry.table_row)
        if clip.group not in self._new_failures:
            self.failed += 1
        self._new_failures.setdefault(clip.group, record)

    def publish(self, shard: ShardWriter, statistics: bytes, lines: bytes) -> Path:
        """Publish a shard, if the folder is still in its place."""
        self.output.check_place()
        return shard.commit(statistics, lines)

    def _failures(self) -> list[FailureRecord]:
        """Those of the source and new ones, in the order of their shards."""
        layout, plan = self.output.layout, self.conversion.plan
        placed: list[tuple[int, FailureRecord]] = []
        for failure in self.conversion.source.failures():
            name = Layout.parse(f"{failure.shard}.npy")
            key = None if name is None or name.number is None else (name.part, name.number)
            number = plan.shard_of_failure(key)
            shard = failure.shard if plan.kept else layout.shard_name(number)
            placed.append((number, _with_shard(failure, shard)))
        if not self._new_failures:
            return [failure for _, failure in placed]
        for failure in self._new_failures.values():
            name = Layout.parse(f"{failure.shard}.npy")
            placed.append((0 if name is None or name.number is None else name.number, failure))
        placed.sort(key=lambda place: place[0])  # which is stable
        return [failure for _, failure in placed]

    def finish(self) -> Sequence[Path]:
        failures = self._failures()
        self.catalog.write_failures(failures)
        self.clips, seconds = 0, 0.0
        for _, entries in self.catalog.finished_shards():
            self.clips += len(entries)
            seconds += sum(entry.duration for entry in entries)
        report = read_report(Layout(self.conversion.source.folder).report) or {}
        facts = {
            "clips": self.clips,
            "clips_this_run": self.clips,
            "hours": seconds / 3600,
            "hours_this_run": seconds / 3600,
            "failures": len(failures),
            "failures_by_code": dict(sorted(Counter(f.code for f in failures).items())),
        }
        converted = {
            "from": str(self.conversion.source.folder),
            "conversion": asdict(self.conversion.identity),
            "failed": self.failed,
        }
        kept = {key: value for key, value in report.items() if key not in ("parts", "array", _CONVERTED)}
        text = json.dumps({**kept, **facts, _CONVERTED: converted}, indent=2) + "\n"
        write_atomically(self.output.layout.report, text.encode())
        self.marker.remove()
        return ()


class FeatureShard:
    """One shard of a feature directory; an OpenShard."""

    def __init__(self, target: FeatureTarget, number: int) -> None:
        conversion = target.conversion
        self._target, self._number, self._shape = target, number, conversion.source.shape
        self._dtype, self._files = conversion.dtype, ShardFiles(target.output.layout, number)
        self._writer = ShardWriter(self._files, conversion.identity.format, self._dtype, *self._shape)
        self._same_dtype = conversion.dtype == conversion.source.dtype
        of_source = ShardFiles(Layout(conversion.source.folder), number)
        # Sums of a GPU, or of windows of long clips, differ in the last bits from those of whole clips: they are kept.
        same = conversion.plan.kept and self._same_dtype and of_source.statistics.exists()
        self._of_source = of_source if same else None
        self._lines: list[dict[str, Any]] = []
        self._moments: list[tuple[str, Moments, bool]] = []
        self._group: str | None = None
        self._written = 0  # clips of the group
        self._failed = False  # whether a clip of the group has

    def __enter__(self) -> FeatureShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def add(self, clip: SourceClip) -> None:
        if clip.group != self._group:
            self._group, self._written, self._failed = clip.group, 0, False
        if self._failed:
            return
        total = [no_moments(*self._shape)]
        try:
            self._writer.append(
                clip.entry, self._converted(clip, total), clip.entry.crc32 if self._same_dtype else None
            )
        except ClipError:  # all channels of the file go, as in a run
            self._writer.drop(self._written)
            del self._lines[len(self._lines) - self._written :], self._moments[len(self._moments) - self._written :]
            self._failed = True
            self._target.record_failure(clip, self._number)
            return
        placed = self._writer.entries[-1]
        place = {"shard": placed.shard, "row": placed.row, "frames": placed.frames}
        line = {**clip.line, **place, "crc32": placed.crc32}
        if "meta" in line:
            line["meta"] = line.pop("meta")  # it is the last key, also where there was no checksum
        self._lines.append(line)
        self._moments.append((clip.entry.id, total[0], clip.silent))
        self._written += 1

    def _converted(self, clip: SourceClip, total: list[Moments]) -> Iterator[np.ndarray]:
        """Features of the type that is written; their moments are added to `total[0]`, where they are needed."""
        for chunk in clip.pieces():
            y = to_dtype(chunk, self._dtype)
            if y is None:
                raise ClipError("non-finite", cannot_hold(self._dtype))
            if self._of_source is None:
                total[0] += moments(y)
            yield y

    def commit(self) -> list[Path]:
        if not self._lines:
            return []
        return [self._target.publish(self._writer, self._statistics().dump(), json_lines(self._lines))]

    def _statistics(self) -> ShardStatistics:
        """Raises OutputError where those of the source are damaged."""
        if self._of_source is not None:
            source = self._target.conversion.source
            return source.statistics(self._of_source, len(self._lines), self._writer.rows)[0]
        statistics = ShardStatistics.of(*self._shape)
        for clip in self._moments:
            statistics.add(*clip)
        return statistics


def _with_shard(failure: FailureRecord, shard: str) -> FailureRecord:
    return replace(failure, shard=shard)


def _has_results(folder: Path) -> bool:
    """Whether a run or a conversion has written more than the description."""
    kinds = {name.kind for _, name in own_files(folder) if not name.temporary}
    return bool(kinds - {"description", "lock", "driver"}) or bool(RunDir(folder).shards)
