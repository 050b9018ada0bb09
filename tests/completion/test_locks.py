from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from tests.completion.spooling import files, line_of, start

from adjourn.completion.locks import (
    RESERVATION_UNIT_BYTES,
    lock_name,
    measure,
    producers,
    release_lock,
    segment_name,
    segment_paths,
    take_lock,
)
from adjourn.completion.segments import SpoolReader, encode_record

PRODUCER = "0123456789abcdef01234567"

HOLD = """
import sys, time
from adjourn.completion.locks import take_lock
print(take_lock(sys.argv[1], sys.argv[2]) is not None, flush=True)
time.sleep(60)
"""

ADOPT_ALL = """
import sys
from adjourn.completion.segments import SpoolReader
reader = SpoolReader(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(len(stream.read(10, 1 << 20).records) for stream in reader.claim()), flush=True)
sys.stdin.readline()
"""


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    """While a process holds a stream no other gets it; SIGKILL frees it without any clean-up."""
    holder = start(HOLD, tmp_path, PRODUCER)
    assert line_of(holder) == "True"
    assert take_lock(str(tmp_path), PRODUCER) is None
    holder.kill()
    holder.communicate()
    descriptor = take_lock(str(tmp_path), PRODUCER)
    assert descriptor is not None
    release_lock(str(tmp_path), PRODUCER, descriptor, remove=True)
    assert files(tmp_path) == []


def test_of_racing_adopters_exactly_one_gets_the_stream(tmp_path: Path) -> None:
    """Of four processes that adopt at the same moment never two read a stream, and never none."""
    racers = [start(ADOPT_ALL, tmp_path) for _ in range(4)]
    assert [line_of(racer) for racer in racers] == ["ready"] * 4
    for n in range(20):
        (tmp_path / segment_name(f"{n:024x}", 1)).write_bytes(encode_record(1, b"{}"))
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    counts = [int(line_of(racer)) for racer in racers]
    for racer in racers:
        racer.communicate("end\n")
    assert sum(counts) == 20


@pytest.mark.parametrize("recreated", [False, True])
def test_a_lock_on_a_removed_file_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recreated: bool
) -> None:
    """If the last owner removes the file between our open and our lock, we do not believe that we own the stream."""
    path = tmp_path / lock_name(PRODUCER)
    flock = fcntl.flock

    def remove_then_lock(descriptor: int, operation: int) -> None:
        path.unlink()
        if recreated:
            path.touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)
    assert take_lock(str(tmp_path), PRODUCER) is None


def test_a_lock_file_without_segments_is_cleared_away(tmp_path: Path) -> None:
    """What a process killed before its first record leaves behind is removed by the next reader."""
    (tmp_path / lock_name(PRODUCER)).touch()
    assert SpoolReader(tmp_path).claim() == []
    assert files(tmp_path) == []


def test_usage_counts_bytes_written_or_reserved_whichever_is_more(tmp_path: Path) -> None:
    """A lock file's size is its owner's promise in units; the producer that asks is left out."""
    other = "f" * 24
    (tmp_path / segment_name(PRODUCER, 1)).write_bytes(b"x" * 100)
    (tmp_path / segment_name(PRODUCER, 2)).write_bytes(b"x" * 50)
    (tmp_path / segment_name(other, 1)).write_bytes(b"x" * 10)
    os.truncate(os.open(tmp_path / lock_name(other), os.O_CREAT | os.O_WRONLY), 3)
    assert measure(str(tmp_path)) == (160, 3, 150 + 3 * RESERVATION_UNIT_BYTES)
    assert measure(str(tmp_path), without=other) == (150, 2, 150)


def test_names_sort_segments_by_number_and_foreign_names_are_ignored(tmp_path: Path) -> None:
    """Order is by number, past the digits that are padded as well."""
    for first in (10**13, 2, 10):
        (tmp_path / segment_name(PRODUCER, first)).touch()
    (tmp_path / f"{PRODUCER}-2.jsonl.bak").touch()
    (tmp_path / "notes.lock").touch()
    assert producers(str(tmp_path)) == {PRODUCER}
    assert segment_paths(str(tmp_path), PRODUCER) == [
        str(tmp_path / segment_name(PRODUCER, first)) for first in (2, 10, 10**13)
    ]
