"""The file: damage, full disks, locks."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.gateway.test_sessions import call, opened, state

from adjourn.errors import ConfigInvalid
from adjourn.gateway.journal import Fsync, Journal
from adjourn.gateway.sessions import Record, Sessions


def journal_of(path: Path, fsync: Fsync = "background") -> Journal:
    return Journal(path, fsync=fsync, fsync_interval_ms=1)


def written(path: Path, *records: Record) -> Sessions:
    """What is in the file's state after these were appended."""
    journal = journal_of(path)
    sessions = journal.open()
    for record in records:
        assert journal.append(record)
        sessions.apply(record)
    journal.close()
    return sessions


@pytest.mark.parametrize("fsync", ["always", "background", "never"])
def test_what_was_appended_is_read_back(tmp_path: Path, fsync: Fsync) -> None:
    """With each policy, over any number of starts; producer and salt stay the same."""
    path = tmp_path / "in" / "x.journal"
    before = written(path, opened("a"), *call("a", "1"), opened("b"))
    for _ in range(3):
        journal = journal_of(path, fsync)
        assert state(journal.open()) == state(before)
        journal.close()
    assert path.stat().st_mode & 0o077 == 0, "for nobody else"


def test_any_damage_costs_the_damaged_lines_only(tmp_path: Path, rng: random.Random) -> None:
    """A file that is cut anywhere, or has a wrong byte anywhere behind its first line, still gives the rest."""
    path = tmp_path / "x.journal"
    records = [record for n in range(20) for record in (opened(f"s{n}"), *call(f"s{n}", "1"))]
    written(path, *records)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for _ in range(50):
        at = rng.randrange(first, len(whole))
        cut = rng.random() < 0.5
        path.write_bytes(whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        found = written(path)
        lines_hurt = whole[:at].count(b"\n")
        kept = lines_hurt - 1 if cut else 60 - 2  # a wrong newline hurts two lines
        assert len(found.open) >= kept // 3 - 1
        assert found.producer == written(path).producer


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """While the first lives; a killed one leaves nothing in the way."""
    path = tmp_path / "x.journal"
    program = (
        "import sys, time; from pathlib import Path; from adjourn.gateway.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), fsync='never', fsync_interval_ms=1); j.open(); print('ok', flush=True)\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ok\n"
        with pytest.raises(ConfigInvalid, match="--name"):
            journal_of(path)
        holder.send_signal(signal.SIGKILL)
    written(path, opened("a"))


def test_a_full_disk_is_mended(tmp_path: Path) -> None:
    """A record that is cut short is told, does not spoil the next one, and a rewrite brings back what was missed."""
    path = tmp_path / "x.journal"
    journal = journal_of(path)
    sessions = journal.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        assert not journal.append(opened("a"))
        assert not journal.append(opened("b"))
        assert journal.due
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    for name in ("a", "b", "c"):
        sessions.apply(opened(name))
    assert journal.append(opened("c"))
    assert list(written_elsewhere(path, tmp_path).open) == ["c"]
    journal.rewrite(sessions)
    assert not journal.due
    assert list(written_elsewhere(path, tmp_path).open) == ["a", "b", "c"]
    journal.close()


def written_elsewhere(path: Path, folder: Path) -> Sessions:
    copy = folder / f"copy-{os.urandom(4).hex()}.journal"
    copy.write_bytes(path.read_bytes())
    return written(copy)
