"""Where clips end that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from hlfeat.errors import TooManyFailuresError, UnreachableError
from hlfeat.extraction.events import FailedClip
from hlfeat.extraction.options import Options
from hlfeat.extraction.run_log import facts
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.text import escape_unprintable

log = logging.getLogger("hlfeat")
UNREACHABLE = "unreachable"  # the code of a clip at a URL whose server does not answer
MOST_UNREACHABLE = 20  # in a row


class Failures:
    """Collects failures and stops the run where the options say so.

    Args:
        standing: failures of earlier runs that stand.
        retried: those whose clips are tried again, by the clip's id; each stands until its clip is done.
        options: `on_error` and `max_failures`.
        save: writes all failures.
    """

    def __init__(
        self,
        standing: Sequence[FailureRecord],
        retried: Mapping[str, FailureRecord],
        options: Options,
        save: Callable[[Sequence[FailureRecord]], None] = lambda records: None,
    ) -> None:
        self._records, self._retried = list(standing), dict(retried)
        self._options, self._save = options, save
        self._unreachable = 0  # clips in a row, of those that come now

    def add(self, failed: FailedClip, shard: str) -> None:
        """Record a clip that failed while this shard was open.

        Raises:
            TooManyFailuresError: the run is to stop.
            UnreachableError: nothing can be reached any more.
        """
        clip, error = failed.clip, failed.error
        before = self._retried.pop(clip.id, None)
        if before is not None:
            shard = before.shard  # so that resumed runs write identical bytes
        member = None if clip.span is None else clip.span.member
        row = None if clip.row is None else clip.row.number
        self._records.append(FailureRecord(clip.id, clip.path, error.code, str(error), shard, member, row))
        fields = facts(event="failure", id=clip.id, path=clip.path, code=error.code)
        log.warning("%s: %s: %s", clip, error.code, escape_unprintable(str(error)), extra=fields)
        most = self._options.max_failures
        if self._options.on_error == "stop":
            raise TooManyFailuresError(f"on_error: stopped at {clip}: {error.code}: {error}")
        if most is not None and len(self._records) > most:
            raise TooManyFailuresError(f"max_failures: more than {most} clips failed")
        self._unreachable = self._unreachable + 1 if error.code == UNREACHABLE else 0
        if self._unreachable == MOST_UNREACHABLE:
            raise UnreachableError(
                f"{clip}: {escape_unprintable(str(error))}; {MOST_UNREACHABLE} clips in a row cannot be reached; "
                "what is finished is kept: run the same again"
            )

    def resolve(self, id_: str) -> None:
        """Note that a clip is done: an earlier failure of it does not stand any more."""
        self._retried.pop(id_, None)
        self._unreachable = 0

    def save(self) -> None:
        """Write all failures, as they came."""
        self._save([*self._records, *self._retried.values()])

    def save_in_order(self, order: Mapping[str, int]) -> list[FailureRecord]:
        """Write all failures in the order of the clips, whose places `order` has by id. Returns them."""
        records = [*self._records, *self._retried.values()]
        records.sort(key=lambda record: order.get(record.id, len(order)))
        self._save(records)
        return records
