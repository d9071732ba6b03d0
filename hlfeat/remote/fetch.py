"""Brings the bytes of clips at URLs."""

from __future__ import annotations

from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Copy
from hlfeat.errors import ClipError
from hlfeat.remote.objects import read
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.urls import is_url


class ObjectFetcher:
    """Fetches objects whole, or the members of an archive at a URL; a Fetcher."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    def brings(self, clip: Clip) -> bool:
        return is_url(clip.path)

    def fetch(self, clip: Clip) -> Copy:
        span = clip.span
        try:
            if span is None:
                return Copy(read(clip.path, retries=self._retries))
            data = read(clip.path, span.offset, span.offset + span.size, self._retries)
            return Copy(data, span.stamp)
        except RemoteError as e:
            raise ClipError(e.code, str(e)) from e

    def close(self) -> None:
        pass
