"""hlfeat.yaml: what a run computes, from what, and with which versions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hlfeat.config.fingerprint import pitch_fingerprint
from hlfeat.config.loading import config_from_dict
from hlfeat.errors import ConfigError, OutputError
from hlfeat.storage.layout import Layout
from hlfeat.storage.times import window_seconds

_FILES = {"weights": "the weights", "stats": "the statistics"}  # keys of other files, and what a message calls these
_MOST = 2**31  # channels, bands or dims


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """What the features look like.

    Attributes:
        channels, bands: of a frame.
        frames_per_second: None where hlfeat.yaml does not say it.
        hop_samples: from a frame to the next.
        pool: how frames were pooled over time; None for frames as they are.
        dims: of a pooled vector.
        freqs: of the bands in hertz; None where they have none, or were not written.
        sample_rate: in hertz, of the samples that are counted; None in folders of earlier versions.
        first_centre_samples: from the beginning of a clip to the centre of its first frame; None as above.
    """

    channels: int
    bands: int
    frames_per_second: float | None = None
    hop_samples: int | None = None
    pool: str | None = None
    dims: int | None = None
    freqs: tuple[float, ...] | None = None
    sample_rate: int | None = None
    first_centre_samples: float | None = None

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of a row of a shard: (channels, bands), or (dims,) of pooled features."""
        return (self.channels, self.bands) if self.dims is None else (self.dims,)

    @property
    def halves(self) -> tuple[str, ...]:
        """What the parts of a pooled vector are, each of channels x bands numbers; nothing for frames as they are."""
        if self.pool is None:
            return ()
        return ("mean", "std") if self.pool == "mean+std" else ("max" if self.pool == "max" else "mean",)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the keys in the order of the file; those of which earlier versions knew nothing may be left out.

        The seconds of windows repeat what `pool` says, for programs that do not take it apart.
        """
        data: dict[str, Any] = {
            "channels": self.channels,
            "bands": self.bands,
            "frames_per_second": self.frames_per_second,
            "hop_samples": self.hop_samples,
        }
        for key in ("sample_rate", "first_centre_samples"):
            if (value := getattr(self, key)) is not None:
                data[key] = value
        if self.freqs is not None:
            data["freqs"] = _FlowList(self.freqs)
        if self.pool is not None:
            data |= {"pool": self.pool, "dims": self.dims}
            window = window_seconds(self.pool)
            if window is not None:
                data |= {"window_seconds": float(window[0]), "window_hop_seconds": float(window[1])}
        return data


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file that the features depend on."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class HashedInputs:
    """The clips of a run in parts: how many, and the SHA-256 of their ids."""

    clips: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PitchSettings:
    """How pitch tracks were made of the features.

    Attributes:
        viterbi: whether along the best path through a clip's frames, or for each frame alone.
    """

    viterbi: bool


@dataclass(frozen=True, slots=True)
class RunDescription:
    """The contents of hlfeat.yaml.

    Attributes:
        fingerprint: of all that decides the features' values; a directory holds features of one fingerprint.
        features: what they look like.
        weights, stats: files of trained weights, and of statistics by which features are normalised.
        versions: of the libraries.
        config: the whole configuration, as plain data.
        inputs: of a run in parts.
        pitch: of a directory of pitch tracks, for which `features` describes the salience; None: it holds features.
    """

    fingerprint: str
    features: FeatureShape
    weights: HashedFile | None
    stats: HashedFile | None
    versions: Mapping[str, str] | None
    config: Mapping[str, Any]
    inputs: HashedInputs | None = None
    pitch: PitchSettings | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the keys in the order of the file."""
        data = {
            "fingerprint": self.fingerprint,
            "features": self.features.as_dict(),
            "weights": _hashed(self.weights),
            "stats": _hashed(self.stats),
            "versions": self.versions,
            "config": self.config,
        }
        if self.pitch is not None:
            data["pitch"] = {"viterbi": self.pitch.viterbi}
        if self.inputs is not None:
            data["inputs"] = {"clips": self.inputs.clips, "sha256": self.inputs.sha256}
        return data

    def to_yaml(self) -> bytes:
        """The file."""
        return yaml.dump(self.as_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunDescription:
        """Raises KeyError, TypeError, ValueError, AttributeError or OverflowError for what no run writes."""
        inputs, pitch = data.get("inputs"), data.get("pitch")
        return cls(
            fingerprint=str(data["fingerprint"]),
            features=_feature_shape(data["features"]),
            weights=_hashed_file(data.get("weights")),
            stats=_hashed_file(data.get("stats")),
            versions=data.get("versions"),
            config=dict(data["config"]),
            inputs=HashedInputs(int(inputs["clips"]), str(inputs["sha256"])) if inputs else None,
            pitch=PitchSettings(bool(pitch["viterbi"])) if pitch else None,
        )


class _FlowList(list[float]):
    """A list that YAML has between brackets, not in a line for each item."""


class _Dumper(yaml.SafeDumper):
    """Plain data, and such lists."""


_Dumper.add_representer(
    _FlowList, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def _hashed(file: HashedFile | None) -> dict[str, str] | None:
    return None if file is None else {"path": file.path, "sha256": file.sha256}


def _hashed_file(data: Mapping[str, Any] | None) -> HashedFile | None:
    return HashedFile(str(data["path"]), str(data["sha256"])) if data else None


def _feature_shape(data: Mapping[str, Any]) -> FeatureShape:
    rate, hop, pool, freqs = (data.get(key) for key in ("frames_per_second", "hop_samples", "pool", "freqs"))
    sample_rate, first = data.get("sample_rate"), data.get("first_centre_samples")
    shape = FeatureShape(
        channels=int(data["channels"]),
        bands=int(data["bands"]),
        frames_per_second=None if rate is None else float(rate),
        hop_samples=None if hop is None else int(hop),
        pool=pool,
        dims=None if pool is None else int(data["dims"]),
        freqs=band_freqs(freqs, data["bands"]),
        sample_rate=None if sample_rate is None else int(sample_rate),
        first_centre_samples=None if first is None else float(first),
    )
    if not all(0 < n < _MOST for n in shape.row):
        raise ValueError(shape.row)
    return shape


def band_freqs(data: object, bands: object) -> tuple[float, ...] | None:
    """As many finite numbers as there are bands; None for anything else, which nobody needs to read the features."""
    if not isinstance(data, list) or len(data) != bands:
        return None
    if not all(isinstance(f, int | float) and math.isfinite(f) for f in data):
        return None
    return tuple(map(float, data))


def read_description_dict(folder: Path) -> dict[str, Any]:
    """hlfeat.yaml of a feature directory as plain data, little of which is checked.

    Raises OutputError where there is none, or it is not what a run writes.
    """
    path = Layout(folder).description
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise OutputError(f"{folder}: not a feature directory: there is no hlfeat.yaml in it") from e
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise OutputError(f"{path}: damaged: {' '.join(str(e).split())}") from e
    if not isinstance(data, dict) or not all(isinstance(data.get(key) or {}, dict) for key in _FILES):
        raise OutputError(f"{path}: damaged: not what a run writes")
    return data


def read_description(folder: Path) -> RunDescription:
    """hlfeat.yaml of a feature directory.

    Raises OutputError where there is none, or it is damaged.
    """
    data = read_description_dict(folder)
    try:
        return RunDescription.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
        path = Layout(folder).description
        raise OutputError(f"{path}: damaged: expected the layout of features") from e


def fingerprint_of(description: RunDescription) -> str | None:
    """The fingerprint of a run with these settings; None for those of another version, which this one cannot read."""
    weights, stats = description.weights, description.stats
    try:
        config = config_from_dict(description.config)
    except ConfigError:
        return None
    fingerprint = config.fingerprint(*(None if file is None else file.sha256 for file in (weights, stats)))
    if description.pitch is not None:
        fingerprint = pitch_fingerprint(fingerprint, {"viterbi": description.pitch.viterbi})
    return fingerprint


def has_its_fingerprint(description: RunDescription) -> bool | None:
    """Whether the fingerprint is that of the settings; None where these cannot be read."""
    fingerprint = fingerprint_of(description)
    return None if fingerprint is None else fingerprint == description.fingerprint


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings in which two descriptions, as plain data, differ; and the files that differ."""
    settings = [key for key in _differing_keys(a.get("config"), b.get("config"), "") if key != "description"]
    files = [name for key, name in _FILES.items() if _sha256(a, key) != _sha256(b, key)]
    return settings + files + _differing_keys(a.get("pitch"), b.get("pitch"), "pitch")


def _differing_keys(a: object, b: object, key: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        names = dict.fromkeys([*a, *b])
        below = (_differing_keys(a.get(name), b.get(name), f"{key}.{name}" if key else str(name)) for name in names)
        return [k for keys in below for k in keys]
    return [key] if a != b else []


def _sha256(description: Mapping[str, Any], key: str) -> object:
    return (description.get(key) or {}).get("sha256")
