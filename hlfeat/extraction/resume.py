"""What earlier runs have left in an output directory: finished clips, and failures that stand or are tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hlfeat.audio.clip import Clip
from hlfeat.extraction.failures import UNREACHABLE
from hlfeat.extraction.finished_shards import Finished, Request, scan_shards
from hlfeat.inputs.base import is_missing
from hlfeat.inputs.rows import BAD_ROW
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.storage.layout import shard_number
from hlfeat.storage.output_dir import OutputDir
from hlfeat.text import escape_unprintable

MISSING = "missing"  # the code of a clip whose file does not exist


@dataclass(frozen=True)
class ResumeState:
    """Where a run goes on.

    Attributes:
        todo: clips that are neither done nor failed for good.
        shards: the numbers of finished shards.
        entries, seconds: of the index of finished shards: how many, and how long the clips are together.
        sample_rates: how many of these have files of each rate (hertz).
        standing: failures that stand.
        retried: failures whose clips are tried again, by the clip's id.
        fills_gap: ids of clips with which a shard begins because a shard was removed that began with them.
    """

    todo: Sequence[Clip]
    shards: frozenset[int] = frozenset()
    entries: int = 0
    seconds: float = 0.0
    sample_rates: Mapping[int, int] = field(default_factory=dict)
    standing: Sequence[FailureRecord] = ()
    retried: Mapping[str, FailureRecord] | None = None
    fills_gap: frozenset[str] = frozenset()


def scan_output(output: OutputDir, request: Request) -> ResumeState:
    """What is done of the clips of a run.

    Raises UsageError where another file has the name of a finished clip, or an update would lose a clip.
    """
    finished = scan_shards(output, request)
    standing, retried = _sort_failures(output, request, finished)
    failed = {failure.id for failure in standing}
    clips = request.clips
    todo = [clip for clip, done in zip(clips, finished.done, strict=True) if not done and clip.id not in failed]
    shards = frozenset(finished.shards)
    fills_gap: frozenset[str] = frozenset()
    if shards != set(range(len(shards))):  # one is missing: it began after a clip that is done
        fills_gap = frozenset(c.id for before, c in zip(finished.done, clips[1:], strict=False) if before)
    return ResumeState(
        todo, shards, finished.entries, finished.seconds, finished.sample_rates, standing, retried, fills_gap
    )


def _sort_failures(
    output: OutputDir, request: Request, finished: Finished
) -> tuple[list[FailureRecord], dict[str, FailureRecord]]:
    """Earlier failures that stand, and those whose clips are tried again.

    Failures beside finished shards stand, or all of them if no clip is left to do. What failed after the last finished
    shard is tried again with the clips around it. So are files that were missing and are there now, URLs that were
    missing (asking whether they are there costs as much), and those that were out of reach. With `retry_failed`,
    everything is.
    """
    archives = {clip.path for clip in request.clips if clip.span is not None or clip.row is not None}
    about_all = finished.entries > 0 and finished.others == 0  # all clips that are done are inputs of this run
    failures = [f for f in output.catalog.failures() if not _is_obsolete(f, request, finished, archives, about_all)]
    failed_inputs = sum(f.id in request.order for f in failures)
    complete = sum(finished.done) + failed_inputs == len(finished.done)
    standing: list[FailureRecord] = []
    retried: dict[str, FailureRecord] = {}
    for f in failures:
        stands = complete or shard_number(f.shard) in finished.shards
        # failures of clips that are no input of this run are not this run's to forget
        if f.id not in request.order or (stands and not request.retry_failed and not _may_be_there(f, request)):
            standing.append(f)
        else:
            retried[f.id] = f
    return standing, retried


def _may_be_there(failure: FailureRecord, request: Request) -> bool:
    """Whether the file of an input was missing, and is not any more, or may not be."""
    if failure.code not in (MISSING, UNREACHABLE):
        return False
    clip = request.clips[request.order[failure.id]]
    return clip.fault is None and not is_missing(clip.path)


def _is_obsolete(
    failure: FailureRecord, request: Request, finished: Finished, archives: set[str], about_all: bool
) -> bool:
    """Whether the clip is done, or is no input any more: this run is about all that is in the folder, and not about
    it; or it is an archive or a table as a whole, of which only the members or rows are inputs now.

    A run over new clips only, which go into the folder of others, knows nothing of the others' failures: these stand,
    wherever their files seem to be from here. Only where failures are tried again they are forgotten if their file is
    gone, or their row of a manifest is another now.
    """
    if failure.id in request.order:
        return bool(finished.done[request.order[failure.id]])
    mended = request.retry_failed and (is_missing(failure.path) or _is_row_of(request.manifests, failure))
    return about_all or mended or (failure.path in archives and not failure.within)


def _is_row_of(manifests: Sequence[str], failure: FailureRecord) -> bool:
    """Whether a bad row of one of these manifests has failed. Its message begins with the path and the line."""
    if failure.code != BAD_ROW:
        return False
    shown = map(escape_unprintable, manifests)
    return failure.message.startswith(tuple(path + end for path in shown for end in ":/"))  # "/": Kaldi's folder
