"""URLs among paths: which are read by fsspec, and with which extra."""

from __future__ import annotations

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "http", "https": "http"}  # by scheme


def scheme_of(path: str) -> str | None:
    """The scheme of a URL that can be read, in lower case; None for a path.

    >>> scheme_of("s3://bucket/a.wav"), scheme_of("a.wav")
    ('s3', None)
    """
    scheme, separator, _ = path.partition("://")
    return scheme.lower() if separator and scheme.lower() in EXTRAS else None


def is_url(path: str) -> bool:
    """Whether a path is a URL that can be read."""
    return scheme_of(path) is not None
