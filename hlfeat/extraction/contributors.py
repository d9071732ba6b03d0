"""Which versions of the libraries took part in what a directory holds, over all of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hlfeat.storage.description import read_description_dict
from hlfeat.storage.output_dir import OutputDir
from hlfeat.storage.run_parts import read_report

Versions = dict[str, str]  # the version of each library by its name

_NO_MATTER = frozenset({"python"})  # its version changes no feature


def earlier_versions(output: OutputDir, clips: int) -> list[Versions]:
    """The versions of the runs that have made what the directory holds of this part, each once.

    They are in the last report, which a run writes before its first shard. Where there is none, as after kills in
    earlier versions, it is known only who began the directory.

    Args:
        clips: that are finished; versions do not matter where there are none.
    """
    if not clips:
        return []
    versions = versions_in(read_report(output.layout.report))
    return versions or versions_in(read_description_dict(output.folder))


def versions_in(data: object) -> list[Versions]:
    """The versions in a report, or in hlfeat.yaml; nothing where there are none. One run's may stand alone."""
    versions = data.get("versions") if isinstance(data, Mapping) else None
    each = versions if isinstance(versions, list) else [versions]
    return distinct({str(k): str(v) for k, v in entry.items()} for entry in each if isinstance(entry, Mapping))


def distinct(versions: Iterable[Mapping[str, str]]) -> list[Versions]:
    """Each once, in order."""
    unique: list[Versions] = []
    for entry in map(dict, versions):
        if entry not in unique:
            unique.append(entry)
    return unique


def version_notes(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line about the libraries of which several versions took part; none where there is one of each."""
    names = dict.fromkeys(name for entry in versions for name in entry if name not in _NO_MATTER)
    several = {name: list(dict.fromkeys(entry.get(name, "none") for entry in versions)) for name in names}
    differ = [f"{name} {', then '.join(used)}" for name, used in several.items() if len(used) > 1]
    if not differ:
        return []
    return [f"runs with different versions have made the features, which may differ in rounding: {'; '.join(differ)}"]
