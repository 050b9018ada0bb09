"""A disk that fills up after a few hundred kilobytes, for the tests of this folder."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class TinyDisk:
    path: Path
    make_room: Callable[[], None]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[TinyDisk]:
    """A real tmpfs of 1 MB where this user may mount one; elsewhere a limit on the size of files, which writers meet
    in the same calls with another error number."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        ballast = folder / "ballast"
        ballast.write_bytes(b"x" * 400_000)
        yield TinyDisk(folder, ballast.unlink)
        subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))
    yield TinyDisk(folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
