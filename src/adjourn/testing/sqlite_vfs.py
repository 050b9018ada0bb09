"""A SQLite VFS that stands between SQLite and the disk, so that tests can fail, delay, count and record its I/O.

It needs no compiler: the default VFS is copied through ctypes, and each file that it opens gets a copy of its I/O
methods whose write, truncate and sync go through the attached interposers. SQLite's table of overridable system calls
would be simpler, but fsync is not in it (see `aSyscall` in os_unix.c). Layouts are those of
https://sqlite.org/c3ref/vfs.html and https://sqlite.org/c3ref/io_methods.html.

The shim sees what this process does through files opened while an interposer is attached. It does not see other
processes, connections opened before, connections that name another VFS, or the shared memory of the WAL index.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, cast
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from adjourn.errors import FaultUnavailable

OK = 0
FULL = 13
IOERR = 10
IOERR_WRITE = IOERR | 3 << 8
IOERR_FSYNC = IOERR | 4 << 8
IOERR_TRUNCATE = IOERR | 6 << 8

_OPEN_DELETEONCLOSE = 0x8
_VFS_NAME = b"adjourn-faults"

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Close = CFUNCTYPE(c_int, c_void_p)
_ReadWrite = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
_FileSize = CFUNCTYPE(c_int, c_void_p, c_void_p)


class _Vfs(Structure):
    """`sqlite3_vfs`; what is not replaced is carried over as an opaque pointer."""

    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _Open),
        ("xDelete", _Delete),
        ("rest", c_void_p * 14),
    ]
    zName: bytes
    xOpen: Callable[..., int]
    xDelete: Callable[..., int]


class _IoMethods(Structure):
    """`sqlite3_io_methods`."""

    _fields_ = [
        ("iVersion", c_int),
        ("xClose", _Close),
        ("xRead", _ReadWrite),
        ("xWrite", _ReadWrite),
        ("xTruncate", _Truncate),
        ("xSync", _Sync),
        ("xFileSize", _FileSize),
        ("rest", c_void_p * 12),
    ]
    xClose: Callable[..., int]
    xRead: Callable[..., int]
    xWrite: Callable[..., int]
    xTruncate: Callable[..., int]
    xSync: Callable[..., int]
    xFileSize: Callable[..., int]


class SqliteFile:
    """A file that SQLite has open through the shim."""

    __slots__ = ("_address", "original", "path")

    def __init__(self, path: Path, address: int, original: _IoMethods) -> None:
        self.path = path
        self._address = address
        self.original = original

    def size(self) -> int:
        """Its size in bytes."""
        size = c_int64()
        if self.original.xFileSize(self._address, ctypes.addressof(size)) != OK:
            raise OSError(f"cannot read the size of {self.path}")
        return size.value

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, zeros past the end.

        Read through SQLite's own descriptor: opening and closing the file again would drop the process's locks on it.
        """
        buffer = ctypes.create_string_buffer(length)
        if length:
            self.original.xRead(self._address, ctypes.addressof(buffer), length, offset)
        return buffer.raw


def _path(name: int) -> Path:
    return Path(os.fsdecode(ctypes.string_at(name))).resolve()


class Interposer:
    """Something that stands between SQLite and the files under `directory`. The methods here let everything through."""

    # An outermost interposer sees the result of the faults that the others inject.
    outermost: ClassVar[bool] = False

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).resolve()

    def install(self) -> None:
        """Attach; databases opened from now on are covered. Raises FaultUnavailable where SQLite cannot be reached."""
        _shim.attach(self)

    def uninstall(self) -> None:
        """Detach, and raise the first exception that a callback raised inside SQLite, if any did."""
        _shim.detach(self)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()

    def opened(self, file: SqliteFile) -> None:
        """SQLite has opened `file`."""

    def deleted(self, path: Path) -> None:
        """SQLite has deleted `path`."""

    def write(self, file: SqliteFile, offset: int, data: bytes, proceed: Callable[[int], int]) -> int:
        """SQLite writes `data`; `proceed(n)` writes its first n bytes. Returns a SQLite result code."""
        return proceed(len(data))

    def truncate(self, file: SqliteFile, size: int, proceed: Callable[[], int]) -> int:
        """SQLite sets the file's size; returns a SQLite result code."""
        return proceed()

    def sync(self, file: SqliteFile, proceed: Callable[[], int]) -> int:
        """SQLite syncs the file; returns a SQLite result code."""
        return proceed()


def _sqlite_library() -> ctypes.CDLL:
    """The very SQLite that Python's sqlite3 module runs on; a second copy would have its own list of VFSs."""
    extension = importlib.import_module("_sqlite3")
    try:
        mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError as error:
        raise FaultUnavailable("SQLite faults need Linux's /proc/self/maps; run these tests on Linux") from error
    candidates = [path for path in dict.fromkeys(mapped) if os.path.basename(path).startswith("libsqlite3.")]
    for name in [*candidates, getattr(extension, "__file__", None)]:
        library = ctypes.CDLL(name)
        if not hasattr(library, "sqlite3_vfs_register"):
            continue
        library.sqlite3_libversion.restype = c_char_p
        if library.sqlite3_libversion() == sqlite3.sqlite_version.encode():
            return library
    raise FaultUnavailable(
        "Python's sqlite3 hides the SQLite inside it, so its I/O cannot be intercepted; "
        "use a Python whose _sqlite3 links the shared libsqlite3"
    )


class _Shim:
    """The one VFS of the process: registered as default with the first interposer, withdrawn with the last.

    Everything that SQLite may hold a pointer to is kept until the process exits: connections may outlive the tests.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._attached: tuple[Interposer, ...] = ()  # replaced, never changed: callbacks read it without the lock
        self._crashes: list[BaseException] = []
        self._library: ctypes.CDLL | None = None
        self._base = c_void_p()
        self._vfs = _Vfs()
        self._files: dict[int, SqliteFile] = {}
        self._patched: dict[int, _IoMethods] = {}
        self._opened_count = 0

    def attach(self, interposer: Interposer) -> None:
        with self._lock:
            if self._library is None:
                self._library = self._prepare()
            if not self._attached:
                self._library.sqlite3_vfs_register(byref(self._vfs), 1)
                self._probe()
            self._attached = tuple(sorted((*self._attached, interposer), key=lambda each: each.outermost))

    def detach(self, interposer: Interposer) -> None:
        with self._lock:
            self._attached = tuple(each for each in self._attached if each is not interposer)
            if not self._attached and self._library is not None:
                self._library.sqlite3_vfs_unregister(byref(self._vfs))
            crashes, self._crashes = self._crashes, []
        if crashes:
            raise crashes[0]

    def _prepare(self) -> ctypes.CDLL:
        library = _sqlite_library()
        library.sqlite3_vfs_find.restype = c_void_p
        address = library.sqlite3_vfs_find(None)
        original = _Vfs.from_address(address)
        self._base = c_void_p(address)
        ctypes.memmove(byref(self._vfs), address, ctypes.sizeof(_Vfs))
        self._vfs.zName = _VFS_NAME
        atexit.register(self._withdraw)
        self._vfs.xOpen = _Open(self._guarded(partial(self._open, original.xOpen)))
        self._vfs.xDelete = _Delete(self._guarded(partial(self._delete, original.xDelete)))
        return library

    def _withdraw(self) -> None:
        """Take every callback out of SQLite: connections left open are closed when no interpreter can run them."""
        with self._lock:
            if self._library is not None:
                self._library.sqlite3_vfs_unregister(byref(self._vfs))
            original = _Vfs.from_address(self._base.value or 0)
            self._vfs.xOpen, self._vfs.xDelete = original.xOpen, original.xDelete
            for address, file in self._files.items():
                cast(address, POINTER(c_void_p))[0] = ctypes.addressof(file.original)
            # Those connections still hold the VFS: its memory must never be freed.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._vfs))

    def _probe(self) -> None:
        """A shim that SQLite passes by would make every fault test pass without a fault."""
        before = self._opened_count
        with tempfile.TemporaryDirectory() as directory:
            connection = sqlite3.connect(Path(directory) / "probe.db")
            connection.execute("CREATE TABLE probe (x)")
            connection.close()
        if self._opened_count == before:
            raise FaultUnavailable("SQLite does not use the fault VFS; use a Python whose _sqlite3 links libsqlite3")

    def _guarded(self, body: Callable[..., int]) -> Callable[..., int]:
        """`body` for SQLite to call: an exception in it becomes an I/O error, and is raised again at detach."""

        def guarded(*args: int | None) -> int:
            try:
                return body(*args)
            except BaseException as error:
                self._crashes.append(error)
                return IOERR

        return guarded

    def _covering(self, path: Path) -> list[Interposer]:
        return [each for each in self._attached if path.is_relative_to(each.directory)]

    def _open(self, original: Callable[..., int], _vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        code = original(self._base, name, file, flags, out)
        self._opened_count += 1
        if code != OK or name is None or flags & _OPEN_DELETEONCLOSE:
            return code
        pointer = cast(file, POINTER(c_void_p))
        methods = pointer[0]
        if not methods:
            return code
        pointer[0] = ctypes.addressof(self._patch(methods))
        opened = SqliteFile(_path(name), file, _IoMethods.from_address(methods))
        self._files[file] = opened
        for each in self._covering(opened.path):
            each.opened(opened)
        return code

    def _delete(self, original: Callable[..., int], _vfs: int, name: int, sync_directory: int) -> int:
        code = original(self._base, name, sync_directory)
        path = _path(name)
        if code == OK:
            for each in self._covering(path):
                each.deleted(path)
        return code

    def _patch(self, address: int) -> _IoMethods:
        """A copy of the I/O methods at `address` that comes by here; SQLite's own stay as they are."""
        with self._lock:
            if address not in self._patched:
                original = _IoMethods.from_address(address)
                patched = _IoMethods()
                ctypes.memmove(byref(patched), address, ctypes.sizeof(_IoMethods))
                patched.xClose = _Close(self._guarded(partial(self._close, original)))
                patched.xWrite = _ReadWrite(self._guarded(partial(self._write, original)))
                patched.xTruncate = _Truncate(self._guarded(partial(self._truncate, original)))
                patched.xSync = _Sync(self._guarded(partial(self._sync, original)))
                self._patched[address] = patched
            return self._patched[address]

    def _close(self, original: _IoMethods, address: int) -> int:
        self._files.pop(address, None)  # first: as soon as it is closed, its memory may hold another file
        return original.xClose(address)

    def _write(self, original: _IoMethods, address: int, data: int, length: int, offset: int) -> int:
        def to_disk(count: int) -> int:
            return original.xWrite(address, data, count, offset) if count else OK

        file = self._files[address]
        covering = self._covering(file.path)
        if not covering:
            return to_disk(length)
        proceed: Callable[[int], int] = to_disk
        payload = ctypes.string_at(data, length)
        for each in covering:
            proceed = _through(each, file, offset, payload, proceed)
        return proceed(length)

    def _truncate(self, original: _IoMethods, address: int, size: int) -> int:
        file = self._files[address]
        proceed: Callable[[], int] = partial(original.xTruncate, address, size)
        for each in self._covering(file.path):
            proceed = partial(each.truncate, file, size, proceed)
        return proceed()

    def _sync(self, original: _IoMethods, address: int, flags: int) -> int:
        file = self._files[address]
        proceed: Callable[[], int] = partial(original.xSync, address, flags)
        for each in self._covering(file.path):
            proceed = partial(each.sync, file, proceed)
        return proceed()


def _through(
    each: Interposer, file: SqliteFile, offset: int, payload: bytes, proceed: Callable[[int], int]
) -> Callable[[int], int]:
    return lambda count: each.write(file, offset, payload[:count], proceed)


_shim = _Shim()
