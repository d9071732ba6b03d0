"""Objects at URLs: single ones, all below a prefix, and those that a pattern matches."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hlfeat.audio.clip import Clip, relative_id
from hlfeat.errors import UsageError
from hlfeat.inputs.base import Argument, InputKind, Origin, Skipped
from hlfeat.inputs.urls import asking, end_run
from hlfeat.remote.objects import RemoteObject, list_prefix, stat
from hlfeat.remote.retries import RemoteError
from hlfeat.remote.urls import is_web, name_of, shown_url
from hlfeat.text import escape_unprintable

_MAGIC = re.compile(r"[*?[]")
_NO_LISTING = "a web server cannot be listed: give files, or a list of their URLs"


class ObjectPattern(InputKind):
    """`s3://bucket/clips/**/*.flac`: the audio among the objects that match, as a shell would find them in folders.

    `*` and `?` stand for characters of a name, `[ab]` for one of them, and `**` for any folders. A folder that matches
    stands for all below it. Names that begin with a dot match patterns that do. Ids are relative to the last folder
    before the first of these characters.
    """

    origins = frozenset({Origin.ARGUMENT})

    def matches(self, argument: Argument) -> bool:
        return argument.url is not None and not is_web(argument.url) and bool(_MAGIC.search(argument.url))

    def clips(self, argument: Argument) -> Iterator[Clip | Skipped | Argument]:
        assert argument.url is not None
        pattern = argument.url
        first = _MAGIC.search(pattern)
        assert first is not None
        folder = pattern[: pattern.rindex("/", 0, first.start()) + 1]
        if folder.endswith("://"):
            raise UsageError(f"{escape_unprintable(argument.path)}: expected a pattern in a bucket, not for buckets")
        rest = pattern.removeprefix(folder).rstrip("/")
        matching = re.compile(rf"{translated(rest)}(?:/.*)?", re.DOTALL)
        with asking(argument.path):
            listed = list(list_prefix(folder, rest[: first.start() - len(folder)], argument.retries))
        found = [o for o in listed if matching.fullmatch(o.url.removeprefix(folder))]
        if found:
            yield from _entries(found, folder, argument, hidden=rest.startswith(".") or "/." in rest)
            return
        with asking(argument.path, {"missing": "no object matches"}):  # it may be the name of one: take 1 [mono].wav
            yield _one(argument, stat(argument.url, argument.retries))


class Objects(InputKind):
    """An object, or all objects below a prefix: a folder's, in the order of a folder on a disk.

    Whether it is one or the other is asked for an input of the run. In a list, a folder ends with `/`.
    """

    origins = frozenset({Origin.ARGUMENT, Origin.LIST})

    def matches(self, argument: Argument) -> bool:
        if argument.url is None:
            return False
        return argument.origin is Origin.ARGUMENT or (argument.url.endswith("/") and not is_web(argument.url))

    def clips(self, argument: Argument) -> Iterator[Clip | Skipped | Argument]:
        url, missing = argument.url, "no such object or folder"
        assert url is not None
        if is_web(url):
            if name_of(url).endswith("/"):
                raise UsageError(f"{escape_unprintable(argument.path)}: expected a file, got a folder; {_NO_LISTING}")
            missing = "no such file"
        if is_web(url) and "*" in url:
            missing += f"; {_NO_LISTING}"
        try:
            found = stat(url, argument.retries)
            if not found.is_folder:
                yield _one(argument, found)
                return
            folder = url.rstrip("/") + "/"
            listed = list(list_prefix(folder, "", argument.retries))
        except RemoteError as e:
            if argument.origin is Origin.ARGUMENT or e.code == "unreachable":
                end_run(argument.path, e, missing if str(e) == "no such object" else None)
            yield Clip(argument.id, argument.path, fault=(e.code, str(e)))
            return
        if argument.origin is Origin.ARGUMENT and any(o.url == folder + "wav.scp" for o in listed):
            raise UsageError(
                f"{escape_unprintable(argument.path)}: a Kaldi data folder is read from a disk only: copy its files "
                "here; the paths in its wav.scp may be URLs"
            )
        yield from _entries(listed, folder, argument)


def translated(pattern: str) -> str:
    """A pattern for names as a regular expression.

    >>> [bool(re.fullmatch(translated("a/**/*.w[a]v"), name)) for name in ("a/x.wav", "a/b/c/x.wav", "a/x.wxv")]
    [True, True, False]
    """
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append(r"(?:(?!\.)[^/]+/)*")
            continue
        visible = "" if part.startswith(".") else r"(?!\.)"
        parts.append(visible + re.sub(r"\*+|\?|\[[!^]?\]?[^\]/]*\]|.", _translated_token, part, flags=re.DOTALL) + "/")
    return "".join(parts).removesuffix("/") if parts[-1].endswith("/") else "".join(parts) + "[^/]+"


def _translated_token(token: re.Match[str]) -> str:
    text = token[0]
    if text[0] == "*":
        return "[^/]*"
    if text == "?":
        return "[^/]"
    if text[0] == "[" and len(text) > 2:
        inside = re.sub(r"[\\\[&~|]", r"\\\g<0>", text[1:-1])
        one_of = f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
        try:
            re.compile(one_of)
        except re.error:  # [z-a]: there is nothing between them
            return "(?!)"
        return one_of
    return re.escape(text)


def _one(argument: Argument, found: RemoteObject) -> Clip:
    listed = None if found.size is None else (found.size, found.modified)
    return Clip(argument.id, argument.path, url=argument.secret_url, listed=listed)


def _entries(
    listed: list[RemoteObject], folder: str, argument: Argument, hidden: bool = False
) -> Iterator[Skipped | Argument]:
    """What a folder's objects are, in the order that the same files have in a folder on a disk.

    Args:
        hidden: whether those in hidden folders are clips too.
    """
    by_parts = sorted((o.url.removeprefix(folder).split("/"), o) for o in _objects_only(listed))
    hidden_folders = set()
    for parts, found in by_parts:
        depth = next((i for i, name in enumerate(parts[:-1], 1) if name.startswith(".")), None)
        if depth is not None and not hidden:
            name = shown_url(folder) + "/".join(parts[:depth])
            if name not in hidden_folders:
                yield Skipped(name, is_folder=True)
            hidden_folders.add(name)
            continue
        id_ = "/".join(filter(None, (argument.prefix, relative_id("/".join(parts)))))
        listed_as = None if found.size is None else (found.size, found.modified)
        yield Argument.at(
            found.url,
            Origin.FOLDER,
            id_,
            id_,
            root=argument.root,
            listed=listed_as,
            retries=argument.retries,
            audio_column=argument.audio_column,
        )


def _objects_only(listed: list[RemoteObject]) -> Iterator[RemoteObject]:
    """Without the empty objects that some programs make for folders."""
    return (found for found in listed if not found.is_folder and not found.url.endswith("/"))
