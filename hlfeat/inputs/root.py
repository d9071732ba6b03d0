"""The folder that paths and ids are relative to, so that they do not depend on where a disk is mounted."""

from __future__ import annotations

import os

from hlfeat.audio.clip import relative_id
from hlfeat.errors import UsageError
from hlfeat.remote.urls import is_url, joined, normal_url, other_scheme, shown_url, unknown_scheme
from hlfeat.text import escape_unprintable

_MOST_KEPT = 4096  # folders, of which it is remembered where their links lead


class Root:
    """Where relative paths of lists and manifests lead, and what clips below it are called.

    Args:
        folder: or a URL that they are below; None: paths are relative to the working folder, and ids are paths as they
            are written, those of URLs without the scheme.

    Raises:
        UsageError: it is no folder.

    >>> Root("/").id_of("/speech//a.wav"), Root().path_of("a.wav")
    ('speech/a.wav', 'a.wav')
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._leads_to: dict[str, str] = {}  # of folders of paths: where links lead
        self._tops: set[str] = set()  # the folder as it is called, and as links lead to it; both with / at the end
        self._at_url = folder is not None and is_url(folder)
        if folder is not None and other_scheme(folder) and not os.path.isdir(folder):
            raise UsageError(f"root {escape_unprintable(shown_url(folder))}: {unknown_scheme(folder)}")
        if folder is not None and self._at_url:
            self._tops = {shown_url(normal_url(folder)).rstrip("/") + "/"}
        elif folder is not None:
            if not os.path.isdir(folder):
                raise UsageError(f"root {escape_unprintable(folder)}: expected a folder")
            self._tops = {os.path.join("/" + top(folder).strip("/"), "") for top in (os.path.abspath, os.path.realpath)}

    def path_of(self, written: str) -> str:
        """The path of a file, as a list or a manifest has it, from the working folder."""
        if self.folder is None or is_url(written) or other_scheme(written):
            return written
        if self._at_url:
            return written if os.path.isabs(written) else joined(f"{normal_url(self.folder).rstrip('/')}/", written)
        return os.path.join(self.folder, written)

    def id_of(self, written: str) -> str:
        """The id of a file whose path is in a list or a manifest.

        Raises:
            UsageError: a relative path leads out of the folder, so that its id would look like that of a file in it.
        """
        if is_url(written) or other_scheme(written):
            return self.below(written) or relative_id(shown_url(written).partition("://")[2])
        if self.folder is None:
            return relative_id(written)
        if os.path.isabs(written):
            return self.below(written) or relative_id(written)
        if ".." not in written.split("/"):
            return relative_id(written)
        below = self.below(self.path_of(written))
        if below is None:
            folder = escape_unprintable(shown_url(self.folder))
            raise UsageError(
                f"{escape_unprintable(written)}: leads out of the root {folder}; a folder above both would hold it"
            )
        return below or relative_id(written)

    def below(self, path: str) -> str | None:
        """The path from this folder; None if it does not lead below it. Of the folder itself it is "".

        A path that does not look so may lead there by links of the folders on its way. That of a folder which may be a
        link itself ends with `/`.
        """
        if self.folder is None:
            return None
        if self._at_url or is_url(path) or other_scheme(path):
            return self._below_url(shown_url(normal_url(path))) if self._at_url and is_url(path) else None
        found = self._below(os.path.abspath(path))
        if found is not None:
            return found
        folder, name = os.path.split(path)
        if folder not in self._leads_to:
            if len(self._leads_to) >= _MOST_KEPT:
                self._leads_to.clear()
            self._leads_to[folder] = os.path.realpath(folder)
        return self._below(os.path.join(self._leads_to[folder], name))

    def _below_url(self, url: str) -> str | None:
        whole = url.rstrip("/") + "/"
        return next((relative_id(whole[len(top) :]) for top in self._tops if whole.startswith(top)), None)

    def _below(self, path: str) -> str | None:
        whole = os.path.join("/" + path.strip("/"), "")
        return next((whole[len(top) : -1] for top in self._tops if whole.startswith(top)), None)


NO_ROOT = Root()
