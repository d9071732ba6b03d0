"""What parts that are done elsewhere say, as one run: paths, progress and lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hlfeat.extraction.forwarding import Listener
from hlfeat.extraction.mailbox import Message
from hlfeat.extraction.progress import Progress
from hlfeat.extraction.run import Hooks
from hlfeat.partition import Part
from hlfeat.storage.layout import ShardFiles, indexed_shards
from hlfeat.storage.named_place import place_of
from hlfeat.storage.output_place import OutputPlace
from hlfeat.storage.track_files import indexed_tracks

log = logging.getLogger("hlfeat")


@dataclass
class _Attempt:
    """A worker's attempt at a part, and what it has counted."""

    name: str
    number: int
    resumed: int = 0
    clips: int = 0
    part: float = 0.0


class PartDisplay:
    """Shows the messages of all parts.

    When a worker has died, another one begins the part anew. Then what the first has counted is taken back, and what
    it still says is ignored. What it has finished without having said so is known from the folder.

    Args:
        parts: of the run.
        devices: that each is divided among.
        out: the output.
    """

    def __init__(self, hooks: Hooks, progress: Progress, parts: int, devices: int, out: Path | OutputPlace) -> None:
        self._parts, self._devices, self._out = parts, devices, place_of(out)
        self._progress, self._finished_shard = progress, hooks.finished_shard
        self._shown: set[Path | str] = set()
        self._names_before = {shard.index.name for shard in indexed_shards(self._out.folder())}
        self._listener = Listener(replace(hooks, finished_shard=self._show_path), progress)
        self._attempts: dict[int, _Attempt] = {}

    @property
    def begun(self) -> set[int]:
        """The parts that a worker has begun."""
        return set(self._attempts)

    def take(self, messages: Iterable[Message]) -> None:
        """Show messages, in order."""
        for message in messages:
            if message.kind == "attempt":
                self._begin(message)
                continue
            attempt = self._attempts.get(message.part)
            if attempt is None or attempt.name != message.attempt:
                continue
            if message.kind == "resume":
                attempt.resumed += message.value
            elif message.kind == "progress":
                attempt.clips += message.value[0]
                attempt.part += message.value[2]
            self._listener.take(f"part {message.part}/{self._parts} on {message.node}", message.kind, message.value)

    def end(self, part: Part) -> None:
        """Show the shards of the part that a worker finished and died before it could say so."""
        attempt = self._attempts.get(part.index)
        if attempt is not None and attempt.number > 1:
            of_part = set(part.split(self._devices))
            for shard in indexed_shards(self._out.folder(anew=True)):
                if shard.layout.part in of_part and shard.index.name not in self._names_before:
                    for path in _paths_of(shard):
                        self._show_path(self._out.shown(path))

    def _begin(self, message: Message) -> None:
        before = self._attempts.get(message.part)
        if before is not None:
            self._progress.add(-before.clips, 0.0, -before.part)
            self._progress.resume(-before.resumed)
            log.warning(
                "part %d/%d: its worker died or failed; continues on %s", message.part, self._parts, message.node
            )
        self._attempts[message.part] = _Attempt(message.attempt, 1 if before is None else before.number + 1)

    def _show_path(self, path: Path | str) -> None:
        if path not in self._shown:
            self._shown.add(path)
            self._finished_shard(path)


def _paths_of(shard: ShardFiles) -> Iterator[Path]:
    """The paths that are shown of a finished shard: its features, or its pitch tracks."""
    tracks = indexed_tracks(shard.index)
    yield from (shard.layout.track(id_) for id_ in tracks)
    if not tracks:
        yield from (path for path in shard.data if path.exists())
