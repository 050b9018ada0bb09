"""Archives of workspaces, the malicious ones too."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from adjourn.errors import RunnerFailed
from adjourn.runners import workspace
from adjourn.runners.workspace import pack, remove, unpack

MB = 2**20


def archive_of(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for entry in entries:
            info, content = entry if isinstance(entry, tuple) else (entry, b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return zstandard.compress(packed.getvalue())


def entry(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, to, 0o644
    return info


def packed(folder: Path, bytes_max: int = MB) -> bytes:
    archive = pack(str(folder), bytes_max)
    assert archive is not None
    return archive


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().stream_reader(archive).read())) as tar:
        return sorted(tar.getnames())


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    """Files, empty folders, modes and links within come back as they were, under any name."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "a" / "empty").mkdir(parents=True)
    (here / "a" / "ünï 🦀\n").write_bytes(b"\0" * 100_000)
    (here / "run.sh").write_text("#!/bin/sh\n")
    (here / "run.sh").chmod(0o755)
    (here / "a" / "up").symlink_to("../run.sh")
    (here / "a" / "beside").symlink_to("empty")
    unpack(str(there), packed(here), MB)
    assert (there / "a" / "ünï 🦀\n").read_bytes() == b"\0" * 100_000
    assert (there / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (there / "a" / "up").read_text() == "#!/bin/sh\n"
    assert (there / "a" / "beside").is_dir()
    assert not any((there / "a" / "empty").iterdir())
    assert names(packed(there)) == names(packed(here))


def test_nothing_from_outside_is_packed(tmp_path: Path) -> None:
    """Links that lead out, devices, pipes and temporary files are left out; nothing is followed."""
    here = tmp_path / "here"
    (here / ".tmp").mkdir(parents=True)
    (here / ".tmp" / "scratch").touch()
    (here / "self").symlink_to(".")
    for name, to in [("passwd", "/etc/passwd"), ("up", "../x"), ("around", "self/../../x"), ("slow", "self/..")]:
        (here / name).symlink_to(to)
    os.mkfifo(here / "fifo")
    (here / "kept").touch()
    assert names(packed(here)) == ["kept", "self"]


def test_a_workspace_that_is_not_there_has_no_archive(tmp_path: Path) -> None:
    """None, not an error and not an empty archive."""
    assert pack(str(tmp_path / "none"), MB) is None


def test_what_is_too_large_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for what is packed, however small it compresses, and for the number of files."""
    (tmp_path / "zeros").write_bytes(b"\0" * MB)
    with pytest.raises(RunnerFailed, match="larger than"):
        packed(tmp_path, MB)
    monkeypatch.setattr(workspace, "ENTRIES_MAX", 10)
    (tmp_path / "zeros").unlink()
    for number in range(11):
        (tmp_path / str(number)).touch()
    with pytest.raises(RunnerFailed, match="10 files"):
        packed(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../out")],
        [entry("a/../../out")],
        [entry("/tmp/out")],
        [entry("link", tarfile.SYMTYPE, "/etc")],
        [entry("link", tarfile.SYMTYPE, "../..")],
        [entry("dot", tarfile.SYMTYPE, "."), entry("link", tarfile.SYMTYPE, "dot/..")],
        [entry("link", tarfile.SYMTYPE, "."), entry("link/deep/er", tarfile.SYMTYPE, "../../..")],
        [entry("p/q/r", tarfile.SYMTYPE, "../.."), entry("p/q/r/s", tarfile.SYMTYPE, "../../..")],
        [entry("device", tarfile.CHRTYPE)],
        [entry("fifo", tarfile.FIFOTYPE)],
        [entry("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [entry("twice"), entry("twice")],
        [entry("file"), entry("file/below")],
        [(entry("large"), b"x" * (2 * MB))],
    ],
    ids=lambda entries: str(entries[-1]).split("'")[1] if isinstance(entries, list) else "",
)
def test_a_malicious_archive_is_refused(tmp_path: Path, entries: list[tarfile.TarInfo]) -> None:
    """What leads out of the workspace, is no file, comes twice or is too large is refused, and leaves nothing."""
    with pytest.raises(RunnerFailed):
        unpack(str(tmp_path / "in"), archive_of(*entries), MB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("archive", [b"", b"not an archive", zstandard.compress(b"not a tar" * 100)])
def test_what_is_no_archive_is_refused(tmp_path: Path, archive: bytes) -> None:
    """Bytes that are no archive, or part of one, are refused and leave nothing."""
    with pytest.raises(RunnerFailed):
        unpack(str(tmp_path / "in"), archive, MB)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_bytes(os.urandom(100_000))
    with pytest.raises(RunnerFailed):
        unpack(str(tmp_path / "in"), packed(tmp_path / "here")[:-50_000], MB)
    assert not (tmp_path / "in").exists()


def test_a_workspace_in_use_is_not_overwritten(tmp_path: Path) -> None:
    """Restoring into a workspace that has files is refused, and leaves them."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunnerFailed, match="not empty"):
        unpack(str(tmp_path), archive_of(entry("file")), MB)
    assert (tmp_path / "file").read_text() == "mine"


def test_removing_follows_nothing(tmp_path: Path) -> None:
    """A workspace goes with all that is in it, unreadable folders too; what its links lead to stays."""
    outside, here = tmp_path / "outside", tmp_path / "here"
    outside.mkdir()
    (outside / "kept").touch()
    (here / "locked" / "deep").mkdir(parents=True)
    (here / "locked" / "deep" / "file").touch()
    (here / "link").symlink_to(outside)
    (here / "locked" / "deep").chmod(0)
    (here / "locked").chmod(0)
    remove(str(here))
    assert not here.exists()
    assert (outside / "kept").exists()
    remove(str(here))
