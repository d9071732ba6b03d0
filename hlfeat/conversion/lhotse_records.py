"""The records of a clip in the manifests of lhotse: recording, features, supervision and cut."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from hlfeat.conversion.metadata import GENDER, LANGUAGE, SPEAKER, TEXT, first_of
from hlfeat.conversion.target import Conversion
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.metadata import meta_of
from hlfeat.storage.times import timing_of

_NAMED = {"text": TEXT, "speaker": SPEAKER, "language": LANGUAGE, "gender": GENDER}


class ClipRecords:
    """The records of clips."""

    def __init__(self, conversion: Conversion) -> None:
        timing = timing_of(conversion.source.data, conversion.source.folder)
        self._rate, self._hop = timing.sample_rate, timing.hop_samples
        self._folder, self._dims = os.path.abspath(conversion.folder), conversion.dims
        self._recordings: set[str] = set()

    def records(
        self, entry: IndexEntry, line: Mapping[str, Any], folder: str, name: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The manifests and what is added to each.

        Args:
            entry, line: of the clip.
            folder, name: of the file of its features.
        """
        id_, channel = recording_id(entry), entry.channel or 0
        start, duration = entry.start or 0.0, self._duration(entry)
        recording = self._recording(entry)
        if recording is not None and id_ not in self._recordings:
            self._recordings.add(id_)
            yield "recordings", recording
        features = {
            "type": "hlfeat",
            "num_frames": entry.frames,
            "num_features": self._dims,
            "frame_shift": self._hop / self._rate,
            "sampling_rate": self._rate,
            "start": start,
            "duration": duration,
            "storage_type": "numpy_files",
            "storage_path": f"{self._folder}/{folder}",
            "storage_key": name,
            "recording_id": id_,
            "channels": channel,
        }
        yield "features", features
        supervisions = _supervisions(entry.id, id_, channel, entry.duration, meta_of(line))
        for supervision in supervisions:
            yield "supervisions", {**supervision, "start": start}
        if recording is not None and self._frames(left := recording["duration"] - start) > 0:
            duration = min(duration, left)
        cut = {"id": entry.id, "start": start, "duration": duration, "channel": channel, "supervisions": supervisions}
        with_recording = {} if recording is None else {"recording": recording}
        yield "cuts", {**cut, "features": features, **with_recording, "type": "MonoCut"}

    def _duration(self, entry: IndexEntry) -> float:
        """The duration for which lhotse expects as many frames as there are."""
        expected = self._frames(entry.duration)
        return entry.duration if expected == entry.frames else entry.frames * self._hop / self._rate

    def _frames(self, seconds: float) -> int:
        """How many frames lhotse expects."""
        return (round(seconds * self._rate) + self._hop // 2) // self._hop

    def _recording(self, entry: IndexEntry) -> dict[str, Any] | None:
        """The recording, resampled as features are computed of it; None where its length is not known."""
        rate = entry.sample_rate
        seconds = entry.duration if entry.start is None and entry.end is None else _seconds_of_file(entry)
        if rate is None or seconds is None or entry.table_row is not None:  # lhotse reads no rows of tables
            return None
        channels = list(range(entry.channels or 1))
        source = {"type": "file", "channels": channels, "source": entry.path}
        if entry.member is not None:
            command = shlex.join(["tar", "-xOf", entry.path, entry.member])
            source = {"type": "command", "channels": channels, "source": command}
        resampled = {"source_sampling_rate": rate, "target_sampling_rate": self._rate}
        samples = int(seconds * self._rate + 0.5)
        return {
            "id": recording_id(entry),
            "sources": [source],
            "sampling_rate": self._rate,
            "num_samples": samples,
            "duration": samples / self._rate,
            "channel_ids": channels,
            **({} if rate == self._rate else {"transforms": [{"name": "Resample", "kwargs": resampled}]}),
        }


def recording_id(entry: IndexEntry) -> str:
    """Names the recording of a clip: its path, also inside an archive or a table."""
    return f"{entry.path}/{entry.within}" if entry.within else entry.path


def _supervisions(
    id_: str, recording: str, channel: int, duration: float, meta: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What the manifest of the run says of a clip; nothing where it says nothing."""
    if not meta:
        return []
    named = {field: value for field, names in _NAMED.items() if (value := first_of(meta, names)) is not None}
    taken = {name for name, _ in named.values()}
    custom = {name: value for name, value in meta.items() if name not in taken}
    return [
        {
            "id": id_,
            "recording_id": recording,
            "start": 0.0,
            "duration": duration,
            "channel": channel,
            **{field: value for field, (_, value) in named.items()},
            **({"custom": custom} if custom else {}),
        }
    ]


def _seconds_of_file(entry: IndexEntry) -> float | None:
    """How long the file of a segment is, which its header says; None where it cannot be read any more."""
    return None if entry.within else _seconds(entry.path)


@lru_cache(maxsize=4096)  # segments of a file follow one another
def _seconds(path: str) -> float | None:
    import soundfile

    try:
        info = soundfile.info(path)
    except (OSError, RuntimeError):
        return None
    return float(info.frames / info.samplerate)
