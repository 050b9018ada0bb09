"""What is found where a trigger watches: real folders, files, maildirs and links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adjourn.errors import TriggerInvalid
from adjourn.sessions import trigger_files
from adjourn.sessions.trigger_files import found

LATER_MS = 4_000_000_000_000
"""When every file has long been as it is."""


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def shown(base: Path, path: str, prefix: str = "", now_ms: int = LATER_MS) -> list[str]:
    return sorted(file.shown for file in found(str(base), path.split("/") if path else [], prefix, now_ms))


def test_a_path_names_a_file_a_folder_or_several(tmp_path: Path) -> None:
    """A folder means the files in it; wildcards stand for names at their level; what begins with a dot is passed over
    unless it is asked for; what is not there is nothing."""
    for name in ("inbox/a.txt", "inbox/b.md", "inbox/.part", "inbox/deep/c.txt", "other/a.txt", "d.txt"):
        write(tmp_path / name)
    assert shown(tmp_path, "inbox") == ["inbox/a.txt", "inbox/b.md"]
    assert shown(tmp_path, "inbox/a.txt") == ["inbox/a.txt"]
    assert shown(tmp_path, "inbox/*.txt") == ["inbox/a.txt"]
    assert shown(tmp_path, "*/a.txt") == ["inbox/a.txt", "other/a.txt"]
    assert shown(tmp_path, "*/*/[abc].*") == ["inbox/deep/c.txt"]
    assert shown(tmp_path, "inbox/.*") == ["inbox/.part"]
    assert shown(tmp_path, "", "/srv/") == ["/srv/d.txt"]
    for nothing in ("none", "none/a", "d.txt/a", "none/*", "*/none"):
        assert shown(tmp_path, nothing) == []
    assert shown(tmp_path / "none", "") == []


def test_a_file_is_told_apart_from_an_earlier_version(tmp_path: Path) -> None:
    """By its time and its size; one that was touched just now may still be written, and is not told yet."""
    path = write(tmp_path / "a")
    os.utime(path, (1_000, 1_000))
    first = found(str(tmp_path), ["a"], "", LATER_MS)
    assert first == found(str(tmp_path), ["a"], "", LATER_MS)
    write(path, "longer")
    os.utime(path, (1_000, 1_000))
    second = found(str(tmp_path), ["a"], "", LATER_MS)
    assert second[0].mark != first[0].mark
    assert [len(found(str(tmp_path), ["a"], "", 1_000_000 + ms)) for ms in (0, 999, 1_000)] == [0, 0, 1]


def test_a_maildir_is_its_new_mail(tmp_path: Path) -> None:
    """What is being delivered and what was read is not told; a message is the same however its file is touched."""
    for name in ("mail/new/1700000000.M1P2.host", "mail/cur/1699999999.M1P1.host:2,S", "mail/tmp/1700000001.M1P3.host"):
        write(tmp_path / name)
    (file,) = found(str(tmp_path), ["mail"], "", LATER_MS)
    assert (file.shown, file.changed_ns) == ("mail/new/1700000000.M1P2.host", 1_700_000_000_000_000_000)
    os.utime(tmp_path / file.shown)
    assert found(str(tmp_path), ["mail"], "", LATER_MS) == [file]
    assert shown(tmp_path, "mail/cur") == ["mail/cur/1699999999.M1P1.host:2,S"]


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """An agent that makes a link in its workspace does not learn what is outside of it."""
    write(tmp_path / "outside" / "secret")
    base = tmp_path / "workspace"
    base.mkdir()
    (base / "folder").symlink_to(tmp_path / "outside")
    (base / "file").symlink_to(tmp_path / "outside" / "secret")
    os.mkfifo(base / "pipe")
    for path in ("folder", "file", "folder/*", "*", "*/*", "folder/secret", ""):
        assert shown(base, path) == []


def test_names_that_are_no_text_are_told_apart(tmp_path: Path) -> None:
    """Any byte may be in a name, as far as the file system is concerned."""
    for name in (b"a\xff", b"a\xfe", b"new\nline"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    assert len({file.mark for file in found(str(tmp_path), [], "", LATER_MS)}) == 3


def test_a_look_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than a trigger may watch are refused with a remedy, and so are more names than may be looked at."""
    monkeypatch.setattr(trigger_files, "FILES_MAX", 10)
    for n in range(11):
        write(tmp_path / "many" / f"f{n}")
    for n in range(30):
        write(tmp_path / "more" / f"g{n}.tmp")
    for path in ("many", "more/*.txt"):
        with pytest.raises(TriggerInvalid, match="name fewer"):
            shown(tmp_path, path)


def test_what_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    """It is not taken for a folder that is empty."""
    with pytest.raises(OSError):
        found(str(tmp_path), ["x" * 300], "", LATER_MS)
