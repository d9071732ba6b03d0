"""URLs among paths: which are read by fsspec, with which extra, and what may be shown of them.

A URL may hold secrets: `https://user:password@host/...`, and signatures in the query. What is shown and written is
`shown_url`; the URL as it was given is used for fetching only.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, unquote_plus

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "http", "https": "http"}  # by scheme
_WEB = ("http", "https")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET_NAME = re.compile(
    r"x-(amz|goog|oss|cos)-.*|se|sig|.*(token|signature|secret|passw|credential|key|auth|session|jwt).*", re.IGNORECASE
)
_IN_TEXT = re.compile(r"https?://[^\s'\"<>\\]*[^\s'\"<>\\().,:;]")


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


def other_scheme(path: str) -> str | None:
    """The scheme of a URL that cannot be read; None for others and for a path.

    >>> other_scheme("ftp://host/a.wav"), other_scheme("s3://bucket/a.wav"), other_scheme("a.wav")
    ('ftp', None, None)
    """
    scheme = _SCHEME.match(path)
    return scheme[1] if scheme and not is_url(path) else None


def unknown_scheme(url: str) -> str:
    """What to say of a URL that cannot be read.

    >>> unknown_scheme("ftp://host/a.wav")
    'expected a path or a URL of s3, gs, hf, http or https, got ftp://'
    """
    return f"expected a path or a URL of s3, gs, hf, http or https, got {other_scheme(url)}://"


def url_of_path(path: str) -> str | None:
    """The URL that was made a path, which leaves one of its two slashes; None for others.

    >>> url_of_path("s3:/bucket/a.wav"), url_of_path("s3://bucket/a.wav"), url_of_path("a.wav")
    ('s3://bucket/a.wav', None, None)
    """
    url = re.sub(r"^(\w+):/(?!/)", r"\1://", path)
    return url if url != path and is_url(url) else None


def is_web(url: str) -> bool:
    """Whether it is of a web server, which lists nothing, and where `?` begins a query."""
    return scheme_of(url) in _WEB


def normal_url(url: str) -> str:
    """The URL with its scheme in lower case."""
    scheme, separator, rest = url.partition("://")
    return scheme.lower() + separator + rest


def shown_url(url: str) -> str:
    """The URL without the secrets in it: user and password, and what signs a request.

    >>> shown_url("https://ann:secret@host/a.wav?id=3&X-Amz-Signature=0f3a")
    'https://host/a.wav?id=3'
    """
    scheme, separator, rest = url.partition("://")
    place, slash, name = rest.partition("/")
    rest = place.rpartition("@")[2] + slash + name
    if "?" in rest and is_web(url):
        before, _, query = rest.partition("?")
        query, hash_, fragment = query.partition("#")
        kept = [part for part in query.split("&") if not _SECRET_NAME.fullmatch(unquote(part.partition("=")[0]))]
        rest = before + ("?" if kept else "") + "&".join(kept) + hash_ + fragment
    return scheme + separator + rest


def without_secrets(text: str, url: str = "") -> str:
    """A message without the secrets of this URL, and of other URLs that it quotes."""
    text = _IN_TEXT.sub(lambda found: shown_url(found[0]), text)
    for secret in _secrets(url):
        text = text.replace(secret, "...")
    return text


def _secrets(url: str) -> list[str]:
    """What is not to be shown, as it may be written, the longest first."""
    if not url or shown_url(url) == url:
        return []
    place = url.partition("://")[2].partition("/")[0]
    user_info = place.rpartition("@")[0]
    values = [user_info, *user_info.split(":", 1)[1:]]
    if is_web(url):
        pairs = [part.partition("=")[::2] for part in url.partition("?")[2].partition("#")[0].split("&")]
        values += [value for name, value in pairs if _SECRET_NAME.fullmatch(unquote(name))]
    forms = {form for value in values for form in (value, unquote(value), unquote_plus(value)) if len(form) > 2}
    return sorted(forms, key=len, reverse=True)


def name_of(path: str) -> str:
    """A path, or a URL without its query: what its extension is to be read from.

    >>> name_of("https://host/a.wav?download=1"), name_of("s3://bucket/what?.wav")
    ('https://host/a.wav', 's3://bucket/what?.wav')
    """
    return re.split("[?#]", path, maxsplit=1)[0] if is_web(path) else path


def joined(base: str, relative: str) -> str:
    """The URL of what is named relative to the folder of a file at a URL. Queries of the file are its own.

    >>> joined("s3://bucket/lists/all.csv", "../clips/a.wav")
    's3://bucket/clips/a.wav'
    """
    scheme, _, rest = name_of(base).partition("://")
    place, _, name = rest.partition("/")
    path = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), relative))
    end = "/" if relative.endswith("/") else ""
    return f"{scheme}://{place}/{path.lstrip('/')}{end}"
