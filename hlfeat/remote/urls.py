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
    r"x-(amz|goog|oss|cos)-.*|se|sig|sign|hmac|pwd|pass|.*(token|signature|secret|passw|credential|key|auth|session|jwt).*",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"[^/]*@|(?!arn:)[^/?#\[]*:(?!\d*(?:[/?#]|$)).*@", re.DOTALL)  # the latter has / in its password
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>\\]*[^\s'\"<>\\().,:;]")


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
    login = _LOGIN.match(rest)
    rest = rest[login.end() :] if login else rest
    if _has_query(url):
        rest = re.sub(r"(\?)([^#]*)|(#)(.*)", _without_secret_pairs, rest, flags=re.DOTALL)
    return scheme + separator + rest


def _has_query(url: str) -> bool:
    """Whether `?` begins a query: in names of objects it is a character."""
    return is_web(url) or not is_url(url)


def _without_secret_pairs(part: re.Match[str]) -> str:
    """A query, or a fragment, which may hold tokens too."""
    begin, pairs = part[1] or part[3], (part[2] or part[4] or "").split("&")
    kept = "&".join(pair for pair in pairs if not _is_secret(pair))
    return begin + kept if kept or pairs == [""] else ""


def _is_secret(pair: str) -> bool:
    return _SECRET_NAME.fullmatch(unquote(pair.partition("=")[0])) is not None


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
    rest = url.partition("://")[2]
    login = _LOGIN.match(rest)
    user_info = login[0][:-1] if login else ""
    values = [user_info, *user_info.split(":", 1)[1:]]
    if _has_query(url):
        pairs = re.split("[?&#]", rest)[1:]
        values += [pair.partition("=")[2] for pair in pairs if _is_secret(pair)]
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
