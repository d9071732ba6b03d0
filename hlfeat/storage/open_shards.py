"""The shards that a store has open in this process."""

from __future__ import annotations

from functools import lru_cache

from hlfeat.storage.feature_format import ClipLookup
from hlfeat.storage.formats import open_lookup
from hlfeat.storage.remote_file import DataFile, RemoteFile
from hlfeat.storage.shared_calls import shared

MAPPED = 64  # at once: each holds a file descriptor, of which a process may have a thousand


class OpenShards:
    """Opens shards, each once however many threads ask for it, and keeps them open; pickled, it has none.

    Of those at URLs all are kept: they hold what their header says. Of those of this machine the latest are.
    """

    def __init__(self) -> None:
        self._here, self._at_urls = lru_cache(MAPPED)(open_lookup), shared(lru_cache(None)(open_lookup))

    def lookup(self, path: DataFile) -> ClipLookup:
        """The clips of a shard. Raises OutputError where it cannot be read."""
        return self._at_urls(path) if isinstance(path, RemoteFile) else self._here(path)

    def __reduce__(self) -> tuple[type[OpenShards], tuple[()]]:  # a worker process maps the shards itself
        return OpenShards, ()
