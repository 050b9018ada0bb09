from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from tests.completion.spooling import adopt_all, drain, files, line_of, live, start

from adjourn.completion.segments import SpoolReader, encode_record
from adjourn.completion.spool import Spool
from adjourn.errors import EventInvalid, SpoolClosed, SpoolFull, Unavailable

EVENT = b'{"event_id":"evt_1","final_message":"%b"}' % (b"x" * 60)
LINE_BYTES = len(encode_record(1, EVENT))


# --- one process


def test_what_is_appended_is_read_back_in_order_under_its_position(tmp_path: Path) -> None:
    """Each append returns the producer and the next number, and the reader gives the same pair back."""
    spool = Spool(tmp_path)
    positions = [spool.append(b'{"i":%d}' % i) for i in range(5)]
    assert drain(live(spool))[0] == [(position.sequence, b'{"i":%d}' % i) for i, position in enumerate(positions)]
    assert [position.sequence for position in positions] == [1, 2, 3, 4, 5]
    assert {position.producer for position in positions} == {live(spool).producer}
    spool.close()


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    """Where the spool cannot be, making it names the path and the settings that move it."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "spool"):
        with pytest.raises(
            Unavailable, match=r"let this user write there, .*capture\.spool_dir, or data_dir"
        ) as refused:
            Spool(place)
        assert str(place) in refused.value.message


def test_threads_share_one_stream_without_gaps(tmp_path: Path) -> None:
    """Four threads appending at once use every number once, across segments, and no record is lost."""
    spool = Spool(tmp_path, segment_bytes=8192)
    threads = [threading.Thread(target=lambda: [spool.append(EVENT) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spool.stats().segments > 10
    records, torn = drain(live(spool), ack=False)
    assert [n for n, _ in records] == list(range(1, 2001))
    assert torn == []
    spool.close()


def test_a_spool_that_delivered_everything_leaves_no_file(tmp_path: Path) -> None:
    """Neither unused, nor drained and closed, does a spool leave anything for others to adopt."""
    unused = Spool(tmp_path)
    unused.close()
    spool = Spool(tmp_path)
    for _ in range(10):
        spool.append(EVENT)
    drain(live(spool))
    spool.close()
    spool.close()
    assert files(tmp_path) == []


def test_closing_with_records_outstanding_leaves_them_to_the_next(tmp_path: Path) -> None:
    """A closed spool refuses appends, and what nobody acknowledged is adopted, by the same process or another."""
    spool = Spool(tmp_path)
    spool.append(EVENT)
    spool.close()
    with pytest.raises(SpoolClosed):
        spool.append(EVENT)
    assert [list(records) for records in adopt_all(tmp_path)[0].values()] == [[(1, EVENT)]]
    assert files(tmp_path) == []


def test_an_event_with_a_raw_newline_is_refused(tmp_path: Path) -> None:
    """One event is one line; nothing is written of one that is not."""
    spool = Spool(tmp_path)
    with pytest.raises(EventInvalid):
        spool.append(b'{\n"a":1}')
    assert files(tmp_path) == []


def test_the_hint_is_given_after_each_append_and_its_failure_is_nobodys(tmp_path: Path) -> None:
    """on_append runs when the record can be read already; if it raises, the event is captured all the same."""
    seen: list[int] = []

    def hint() -> None:
        seen.extend(n for n, _ in drain(live(spool))[0])
        raise RuntimeError("Event loop is closed")

    spool = Spool(tmp_path, on_append=hint)
    spool.append(EVENT)
    spool.append(EVENT)
    assert seen == [1, 2]
    assert spool.stats().captured == 2
    spool.close()


def test_two_spools_of_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    """A live stream is its writer's, also against a reader in the same process."""
    one, two = Spool(tmp_path), Spool(tmp_path)
    one.append(EVENT)
    two.append(EVENT)
    assert SpoolReader(tmp_path, own=one.live_stream).claim() == [live(one)]
    assert SpoolReader(tmp_path).claim() == []
    one.close()
    two.close()


def test_a_large_segment_that_is_acknowledged_is_deleted_while_the_stream_goes_on(tmp_path: Path) -> None:
    """A steady flow that is being delivered keeps the directory small, and its numbers go on."""
    spool = Spool(tmp_path, segment_bytes=16 * LINE_BYTES)
    for n in range(1, 101):
        assert spool.append(EVENT).sequence == n
        assert [n for n, _ in drain(live(spool))[0]] == [n]
        assert spool.stats().segments <= 1
    spool.close()
    assert files(tmp_path) == []


# --- durability


@pytest.mark.parametrize(("policy", "flushed"), [("always", 5), ("background", 1), ("never", 0)])
def test_each_fsync_policy_flushes_when_it_says(
    tmp_path: Path, policy: str, flushed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """always: before each append returns; background: soon after, many records at once; never: at close alone."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    assert policy in ("always", "background", "never")
    spool = Spool(tmp_path, fsync=policy, fsync_interval_ms=20)
    for _ in range(5):
        spool.append(EVENT)
    if policy == "background":
        deadline = time.monotonic() + 5
        while not calls and time.monotonic() < deadline:
            time.sleep(0.005)
    assert len(calls) == flushed
    spool.close()
    assert len(calls) > flushed


def test_a_failed_flush_is_told_under_always_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller learns that the event may not survive a power cut; it is in the file and will be delivered."""

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    spool = Spool(tmp_path, fsync="always")
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(Unavailable, match="could not be flushed"):
        spool.append(EVENT)
    assert (spool.stats().captured, spool.stats().flush_failures) == (1, 1)
    assert drain(live(spool))[0] == [(1, EVENT)]
    spool.close()


# --- the bound


def test_a_full_spool_refuses_and_counts_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    """Exactly as many records fit as the limit says; each refusal is counted; delivery makes room."""
    spool = Spool(tmp_path, bytes_max=100 * LINE_BYTES - 50, segment_bytes=1000)
    captured = 0
    for _ in range(150):
        try:
            spool.append(EVENT)
            captured += 1
        except SpoolFull:
            pass
    stats = spool.stats()
    assert stats.captured == captured == len(drain(live(spool), ack=False)[0])
    assert stats.refused == 150 - captured
    assert 100 * LINE_BYTES - 50 - LINE_BYTES < stats.bytes <= 100 * LINE_BYTES - 50
    with pytest.raises(SpoolFull, match="raise the limit"):
        spool.append(EVENT)
    live(spool).ack(captured)
    spool.append(EVENT)
    spool.close()


def test_dropping_the_oldest_keeps_the_newest_and_counts_exactly(tmp_path: Path) -> None:
    """captured = dropped + readable, the readable ones are the newest without a gap, and the limit holds throughout."""
    limit = 60 * LINE_BYTES
    spool = Spool(tmp_path, bytes_max=limit, full="drop_oldest")
    for _ in range(500):
        spool.append(EVENT)
        assert sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) <= limit
    stats = spool.stats()
    numbers = [n for n, _ in drain(live(spool))[0]]
    assert stats.captured == 500
    assert stats.refused == 0
    assert numbers == list(range(501 - len(numbers), 501))
    assert stats.dropped + len(numbers) == 500
    assert len(numbers) > 30
    spool.close()


def test_what_is_being_read_is_never_dropped(tmp_path: Path) -> None:
    """A segment that the reader has begun stays until it is acknowledged, however full the spool."""
    spool = Spool(tmp_path, bytes_max=80 * LINE_BYTES, full="drop_oldest")
    spool.append(EVENT)
    first = live(spool).read(1, 1 << 20)
    for _ in range(300):
        spool.append(EVENT)
    numbers = [1, *(n for n, _ in drain(live(spool), ack=False)[0])]
    assert first.records == [(1, EVENT)]
    assert numbers[:5] == [1, 2, 3, 4, 5]
    assert len(numbers) + spool.stats().dropped == 301
    # Now every segment is being read: there is nothing to drop, so nothing more goes in.
    with pytest.raises(SpoolFull):
        for _ in range(100):
            spool.append(EVENT)
    spool.close()


def test_dropping_and_reading_at_once_account_for_every_record(tmp_path: Path) -> None:
    """While a slow reader races two threads that overflow the spool: captured = read + dropped, none of them twice."""
    spool = Spool(tmp_path, bytes_max=100 * LINE_BYTES, full="drop_oldest")
    done = threading.Event()
    seen: list[int] = []

    def read_all() -> None:
        while True:
            last_round = done.is_set()
            # Far less than the spool holds: what is in the reader's hands cannot be dropped.
            while (chunk := live(spool).read(5, 1 << 20)).records:
                seen.extend(n for n, _ in chunk.records)
                live(spool).ack(chunk.end)
            if last_round:
                return

    spool.append(EVENT)
    threads = [threading.Thread(target=lambda: [spool.append(EVENT) for _ in range(3000)]) for _ in range(2)]
    reader = threading.Thread(target=read_all)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    stats = spool.stats()
    assert stats.captured == 6001 == len(seen) + stats.dropped
    assert seen == sorted(set(seen))
    spool.close()
    assert files(tmp_path) == []


def test_an_event_larger_than_the_whole_spool_is_refused_and_drops_nothing(tmp_path: Path) -> None:
    """No room can be made for it, so no other event is sacrificed."""
    spool = Spool(tmp_path, bytes_max=4096, full="drop_oldest")
    spool.append(EVENT)
    with pytest.raises(SpoolFull):
        spool.append(b"x" * 5000)
    spool.append(b"x" * 2000)
    assert spool.stats().dropped == 0
    assert spool.stats().refused == 1
    spool.close()


FILL = """
import sys
from adjourn.completion.spool import Spool
from adjourn.errors import SpoolFull
spool = Spool(sys.argv[1], bytes_max=int(sys.argv[2]), segment_bytes=20_000)
print("ready", flush=True)
sys.stdin.readline()
event = b'{"x":"' + b"x" * 150 + b'"}'
for _ in range(1500):
    try:
        spool.append(event)
    except SpoolFull:
        pass
stats = spool.stats()
print(stats.captured, stats.refused, flush=True)
sys.stdin.readline()
"""


def test_processes_on_one_directory_keep_the_limit_together(tmp_path: Path) -> None:
    """Three processes that fill one spool at once never exceed its limit, and come close to it."""
    limit = 300_000
    fillers = [start(FILL, tmp_path, limit) for _ in range(3)]
    assert [line_of(filler) for filler in fillers] == ["ready"] * 3
    for filler in fillers:
        assert filler.stdin is not None
        filler.stdin.write("go\n")
        filler.stdin.flush()
    counts = [tuple(map(int, line_of(filler).split())) for filler in fillers]
    used = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
    for filler in fillers:
        filler.communicate("end\n")
    assert all(captured + refused == 1500 for captured, refused in counts)
    assert 0.8 * limit < used <= limit
    assert sum(len(records) for records in adopt_all(tmp_path)[0].values()) == sum(c for c, _ in counts)
