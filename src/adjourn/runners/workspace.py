"""A session's folder as an archive (tar, zstd) and back. Plain functions: run them in a thread.

A workspace is written by a program that nobody trusts, also while it is read here: nothing is followed out of it.
"""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import zstandard

from adjourn.errors import RunnerFailed

LEFT_OUT = frozenset({".tmp"})
"""At the top: what the program's temporary files are in where it has no /tmp of its own."""
ENTRIES_MAX = 100_000
OVERHEAD = 1_024
"""Bytes that count for each entry besides its content."""


def pack(folder: str, bytes_max: int) -> bytes | None:
    """Folders, files, and links that stay within; None where there is no such folder. `bytes_max` bounds what is
    packed, not compressed. Raises RunnerFailed."""
    if not os.path.isdir(folder):
        return None
    packed = io.BytesIO()
    budget = _Budget(bytes_max)
    try:
        with (
            zstandard.ZstdCompressor(level=3).stream_writer(packed, closefd=False) as compressed,
            tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for top, folders, files, at in os.fwalk(folder, follow_symlinks=False):
                base = PurePosixPath(os.path.relpath(top, folder))
                if base == PurePosixPath("."):
                    folders[:] = [name for name in folders if name not in LEFT_OUT]
                for name in sorted([*folders, *files]):
                    _pack_one(tar, str(base / name), name, at, budget)
    except OSError as error:
        raise RunnerFailed(f"cannot read the workspace: {error.strerror}; look at its files") from None
    return packed.getvalue()


def unpack(folder: str, archive: bytes, bytes_max: int) -> None:
    """Into a folder that is new or empty. What fails leaves nothing. Raises RunnerFailed."""
    if os.path.isdir(folder) and os.listdir(folder):
        raise RunnerFailed("the workspace is not empty; restore into a new one")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with (
            zstandard.ZstdDecompressor().stream_reader(archive) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            _unpack_all(tar, Path(folder), _Budget(bytes_max))
    except (OSError, tarfile.TarError, zstandard.ZstdError, EOFError, UnicodeError, ValueError) as error:
        remove(folder)
        raise RunnerFailed(f"the archive of the workspace cannot be restored: {error}") from None
    except RunnerFailed:
        remove(folder)
        raise


def remove(folder: str) -> None:
    """Also what its program has made unreadable."""

    def unlock(function: Callable[..., object], path: str, _: object) -> None:
        try:
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IRWXU)
            if function in (os.open, os.scandir, os.rmdir, os.lstat):
                shutil.rmtree(path, ignore_errors=True)
            else:
                function(path)
        except OSError:
            pass

    if os.path.islink(folder):
        os.unlink(folder)
    elif os.path.isdir(folder):
        shutil.rmtree(folder, onerror=unlock)


class _Budget:
    def __init__(self, bytes_max: int) -> None:
        self._left, self._max, self._entries = bytes_max, bytes_max, 0

    def spend(self, size: int) -> None:
        self._left -= size + OVERHEAD
        self._entries += 1
        if self._left < 0 or self._entries > ENTRIES_MAX:
            raise RunnerFailed(
                f"the workspace is larger than {self._max} bytes or {ENTRIES_MAX} files; clear it, or raise the limit"
            )


def _pack_one(tar: tarfile.TarFile, path: str, name: str, at: int, budget: _Budget) -> None:
    """What is no folder, file or link is left out, and so is what has gone meanwhile."""
    entry = tarfile.TarInfo(path)
    try:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        entry.mtime, entry.mode = int(found.st_mtime), stat.S_IMODE(found.st_mode) & 0o777
        if stat.S_ISDIR(found.st_mode):
            entry.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(found.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=at)
            if not _within(path, entry.linkname):
                return
        elif not stat.S_ISREG(found.st_mode):
            return
        else:
            _pack_file(tar, entry, os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at), budget)
            return
    except FileNotFoundError:
        return
    budget.spend(0)
    tar.addfile(entry)


def _pack_file(tar: tarfile.TarFile, entry: tarfile.TarInfo, fd: int, budget: _Budget) -> None:
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return
        entry.size = found.st_size
        budget.spend(entry.size)
        tar.addfile(entry, _Padded(file, entry.size))


class _Padded(io.RawIOBase):
    """A file that is as long as it was when it was looked at, whatever its program does to it meanwhile."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        found = self._file.read(wanted)
        self._left -= wanted
        return found + bytes(wanted - len(found))


def _unpack_all(tar: tarfile.TarFile, folder: Path, budget: _Budget) -> None:
    """Links last: until then there is nothing that a path could lead out through."""
    links: list[tuple[Path, str]] = []
    folders: list[tuple[Path, int]] = []
    for entry in tar:
        path = _safe(entry.name)
        target = folder / path
        budget.spend(entry.size)
        if entry.isdir():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders.append((target, entry.mode))
        elif entry.issym():
            if not _within(path, entry.linkname):
                raise RunnerFailed(f"the archive has a link out of the workspace: {entry.name!r}")
            links.append((target, entry.linkname))
        elif entry.isreg() and (content := tar.extractfile(entry)) is not None:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(target, "xb") as file:
                shutil.copyfileobj(content, file)
            os.chmod(target, entry.mode & 0o777)
            os.utime(target, (entry.mtime, entry.mtime))
        else:
            raise RunnerFailed(f"the archive has what is no file, folder or link: {entry.name!r}")
    for target, _ in links:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for target, to in links:
        target.symlink_to(to)
    for target, mode in reversed(folders):
        os.chmod(target, (mode & 0o777) | stat.S_IRWXU)


def _safe(name: str) -> str:
    path = posixpath.normpath(name)
    if name.startswith("/") or path == ".." or path.startswith("../") or "\0" in name:
        raise RunnerFailed(f"the archive has a path out of the workspace: {name!r}")
    return path


def _within(path: str, link: str) -> bool:
    """Whether the link stays below the folder that `path` is relative to. `..` may only stand in front, where it leads
    from one real folder to another: behind the name of a link it leads anywhere."""
    up = 0
    names = [name for name in link.split("/") if name not in ("", ".")]
    while names[up : up + 1] == [".."]:
        up += 1
    return not link.startswith("/") and ".." not in names[up:] and up <= path.count("/")
