"""Which files a trigger watches are there now. It reads folders and never a file; it may take as long as a disk does,
so it runs in a thread of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from adjourn.errors import TriggerInvalid
from adjourn.sessions.triggers import File, mark_of

FILES_MAX = 20_000
"""That one trigger may watch. Twice as many names are looked at, at most."""
SETTLED_MS = 1_000
"""A file that has changed since then may still be written."""
_MAILDIR = ("cur", "new", "tmp")


def found(base: str, names: Sequence[str], shown: str, now_ms: int) -> list[File]:
    """What is at `names` under the folder `base`, where the path of a file begins with `shown`. Links are not followed,
    and names that begin with a dot are passed over unless a dot is asked for. Raises TriggerInvalid, OSError."""
    looked = _Looked()
    files = list[File]()
    for folder, prefix in _folders(os.path.realpath(base), shown, names[:-1], looked):
        files += _files(folder, prefix, names[-1] if names else "", looked, now_ms)
        if len(files) > FILES_MAX:
            raise _too_many()
    return files


class _Looked:
    """How many names were looked at."""

    def __init__(self) -> None:
        self._count = 0

    def entries(self, folder: str, pattern: str) -> Iterator[os.DirEntry[str]]:
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return  # not there yet
        with entries:
            for entry in entries:
                self._count += 1
                if self._count > 2 * FILES_MAX:
                    raise _too_many()
                if fnmatchcase(entry.name, pattern) and (pattern.startswith(".") or not entry.name.startswith(".")):
                    yield entry


def _folders(folder: str, shown: str, names: Sequence[str], looked: _Looked) -> Iterator[tuple[str, str]]:
    """(a folder, how it is shown), for each that fits."""
    if not names:
        yield folder, shown
    elif not _wild(names[0]):
        if _is_folder(inner := os.path.join(folder, names[0])):
            yield from _folders(inner, f"{shown}{names[0]}/", names[1:], looked)
    else:
        for entry in looked.entries(folder, names[0]):
            if entry.is_dir(follow_symlinks=False):
                yield from _folders(entry.path, f"{shown}{entry.name}/", names[1:], looked)


def _files(folder: str, shown: str, name: str, looked: _Looked, now_ms: int) -> Iterator[File]:
    if name and _wild(name):
        yield from _in_folder(folder, shown, name, looked, now_ms)
        return
    inner = os.path.join(folder, name) if name else folder
    prefix = f"{shown}{name}/" if name else shown
    if not _is_folder(inner):
        if (status := _status(inner)) is not None:
            yield from _file(f"{shown}{name}", status, now_ms)
    elif all(_is_folder(os.path.join(inner, part)) for part in _MAILDIR):
        for entry in looked.entries(os.path.join(inner, "new"), "*"):
            if entry.is_file(follow_symlinks=False):
                # A maildir's names are never used again, and files come into it whole.
                yield File(f"{prefix}new/{entry.name}", mark_of(prefix, entry.name), _arrived_ns(entry.name))
    else:
        yield from _in_folder(inner, prefix, "*", looked, now_ms)


def _in_folder(folder: str, shown: str, pattern: str, looked: _Looked, now_ms: int) -> Iterator[File]:
    for entry in looked.entries(folder, pattern):
        if entry.is_file(follow_symlinks=False) and (status := _status(entry.path)) is not None:
            yield from _file(f"{shown}{entry.name}", status, now_ms)


def _file(shown: str, status: os.stat_result, now_ms: int) -> Iterator[File]:
    if stat.S_ISREG(status.st_mode) and not 0 <= now_ms - status.st_mtime_ns // 1_000_000 < SETTLED_MS:
        yield File(shown, mark_of(shown, status.st_mtime_ns, status.st_size), status.st_mtime_ns)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):  # gone since it was listed
        return None


def _is_folder(path: str) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _arrived_ns(name: str) -> int:
    """A maildir's names begin with the second of their arrival."""
    second = name.partition(".")[0]
    return int(second) * 1_000_000_000 if second.isascii() and second.isdigit() and len(second) < 12 else 0


def _wild(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _too_many() -> TriggerInvalid:
    fact = f"there are more than {FILES_MAX} files where it watches"
    return TriggerInvalid(f"{fact}; move those that are done elsewhere, or name fewer in its path", path="path")
