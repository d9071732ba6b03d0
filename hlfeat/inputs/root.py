"""The folder that paths and ids are relative to, so that they do not depend on where a disk is mounted."""

from __future__ import annotations

import os

from hlfeat.audio.clip import relative_id
from hlfeat.errors import UsageError
from hlfeat.text import escape_unprintable


class Root:
    """Where relative paths of lists and manifests lead, and what clips below it are called.

    Args:
        folder: None: paths are relative to the working folder, and ids are paths as they are written.

    Raises:
        UsageError: it is no folder.

    >>> Root("/").id_of("/speech//a.wav"), Root().path_of("a.wav")
    ('speech/a.wav', 'a.wav')
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._tops: set[str] = set()  # the folder as it is called, and as links lead to it; both with / at the end
        if folder is not None:
            if not os.path.isdir(folder):
                raise UsageError(f"root {escape_unprintable(folder)}: expected a folder")
            self._tops = {os.path.join(top(folder), "") for top in (os.path.abspath, os.path.realpath)}

    def path_of(self, written: str) -> str:
        """The path of a file, as a list or a manifest has it, from the working folder."""
        return written if self.folder is None else os.path.join(self.folder, written)

    def id_of(self, written: str) -> str:
        """The id of a file whose path is in a list or a manifest."""
        below = self.below(written) if os.path.isabs(written) else None
        return below or relative_id(written)

    def below(self, path: str) -> str | None:
        """The path from this folder; None if it does not lead below it. Of the folder itself it is ""."""
        if self.folder is None:
            return None
        whole = os.path.join(os.path.abspath(path), "")
        return next((whole[len(top) : -1] for top in self._tops if whole.startswith(top)), None)
