"""Whether a run can go on with what is in a directory. Nothing here writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hlfeat.errors import UsageError
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.description import RunDescription, differing_settings, read_description_dict
from hlfeat.storage.layout import Layout, own_files


@dataclass(frozen=True)
class Continuation:
    """A run of a part of the inputs, and the folder that it is to go into."""

    folder: Path
    part: Part = WHOLE

    def check(self, description: RunDescription, overwrite: bool) -> None:
        """Raises UsageError where a run of this description would be refused. The folder need not be there."""
        if not self.folder.is_dir():
            return
        self.check_options(overwrite)
        if Layout(self.folder).description.exists() and not overwrite:
            self.check_same(description)

    def check_options(self, overwrite: bool) -> None:
        """Raises UsageError where the folder is in another number of parts, or has files that are not hlfeat's."""
        if overwrite and self.part != WHOLE:
            raise UsageError("overwrite: expected without parts, as it removes the others' work: remove the folder")
        if not overwrite:
            self._check_partition()
        self._check_ours()

    def _check_partition(self) -> None:
        for parts in ShardCatalog(Layout(self.folder, self.part)).other_partitions():
            raise UsageError(
                f"{self.folder}: holds a run in {_count_parts(parts)}, not in "
                f"{_count_parts(self.part.of)}; choose another folder",
                remedy="part" if parts > 1 else "",
            )

    def _check_ours(self) -> None:
        """Raises UsageError for files of hlfeat's names without hlfeat.yaml."""
        if Layout(self.folder).description.exists():
            return
        files = [(path.name, name) for path, name in own_files(self.folder) if name.kind not in ("lock", "driver")]
        if not all(name.temporary for _, name in files):
            names = ", ".join(sorted(path for path, _ in files)[:3])
            raise UsageError(f"{self.folder}: has {names} but no hlfeat.yaml, so they are not hlfeat's to touch")

    def check_same(self, description: RunDescription) -> None:
        """Raises UsageError where hlfeat.yaml has another fingerprint, or is of parts of other clips."""
        before, now = read_description_dict(self.folder), description.as_dict()
        there, asked = ("pitch tracks" if settings.get("pitch") else "features" for settings in (before, now))
        if there != asked:
            raise UsageError(f"{self.folder}: holds {there}, not {asked}; choose another folder", remedy="overwrite")
        if before.get("fingerprint") != description.fingerprint:
            keys = ", ".join(differing_settings(before, now)) or "the configuration"
            raise UsageError(
                f"{self.folder}: holds {there} of another configuration ({keys} differ); choose another folder",
                remedy="overwrite",
            )
        inputs_before, inputs_now = before.get("inputs") or {}, now.get("inputs") or {}
        if self.part != WHOLE and inputs_before != inputs_now:  # parts of different lists overlap, or leave clips out
            raise UsageError(
                f"{self.folder}: holds parts of another list of clips ({inputs_before.get('clips')} then, "
                f"{inputs_now['clips']} now); choose another folder for the clips that are new"
            )


def _count_parts(n: int) -> str:
    return "one part" if n == 1 else f"{n} parts"
