"""The spool against full disks, SIGKILL and fork, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.completion.spooling import adopt_all, drain, files, line_of, live, start
from tests.faults.rigs import IMPORTS, assert_exact, audited, ended, mapping, raw, settings_of, url_of

from adjourn.completion.segments import SpoolReader, encode_record
from adjourn.completion.spool import Spool
from adjourn.errors import StorageFull
from adjourn.runtime import Runtime
from adjourn.testing.faults import run_python

EVENT = b'{"event_id":"evt_1","final_message":"%b"}' % (b"x" * 60)
LINE_BYTES = len(encode_record(1, EVENT))


# --- a disk that takes no more


FILE_LIMIT = """
import resource, signal, sys
from adjourn.completion.segments import encode_record
from adjourn.completion.spool import Spool
from adjourn.errors import StorageFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(sys.argv[1])
event = b'{"x":"' + b"x" * 150 + b'"}'
spool.append(event)
cut = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * len(encode_record(1, event)) + cut, resource.RLIM_INFINITY))
got = []
for n in range(6):
    try:
        spool.append(event)
        got.append("ok")
    except StorageFull:
        got.append("full")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(event)
stats = spool.stats()
print(",".join(got), stats.captured, stats.torn, stats.refused, flush=True)
"""


@pytest.mark.parametrize("cut", [1, 60, -1])
def test_a_short_write_costs_the_record_that_was_cut_and_no_other(tmp_path: Path, cut: int) -> None:
    """At a limit of file size the cut record's caller is told, its bytes come out as torn, the rest comes out whole,
    and the spool goes on in a new file; also when only the newline was missing."""
    process = start(FILE_LIMIT, tmp_path, cut)
    outcomes, captured, torn, refused = line_of(process).split()
    process.communicate()
    before = 2 if cut > 0 else 1
    # The cut one; the next finds that nothing more fits into this file, and begins another.
    assert outcomes.split(",")[: before + 3] == ["ok"] * before + ["full", "full", "ok"]
    assert outcomes.count("ok") + 2 == int(captured)
    assert int(captured) + int(torn) + int(refused) == 8
    records, lines = adopt_all(tmp_path)
    assert [len(stream) for stream in records.values()] == [int(captured)]
    assert len(lines) == int(torn) >= 1


def test_the_torn_bytes_of_a_short_write_are_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record cut anywhere, even when the mark that ends it is cut too, is one torn line; no number is reused."""
    spool = Spool(tmp_path)
    real_write = os.write

    def cut_at(length: int) -> None:
        monkeypatch.setattr("adjourn.completion.spool.write", lambda fd, data: real_write(fd, data[:length]))

    spool.append(EVENT)
    cut_at(LINE_BYTES - 1)
    with pytest.raises(StorageFull):
        spool.append(EVENT)
    for length in (2, 3, 5):  # a part of the mark, a part again, the whole mark and nothing more
        cut_at(length)
        with pytest.raises(StorageFull):
            spool.append(EVENT)
    cut_at(LINE_BYTES * 2)
    assert spool.append(EVENT).sequence == 6
    records, torn = drain(live(spool))
    assert [n for n, _ in records] == [1, 6]
    assert [reason for _, reason in torn] == ["cut short while it was written"]
    assert torn[0][0].startswith(encode_record(2, EVENT)[:-1])
    stats = spool.stats()
    assert (stats.captured, stats.torn, stats.refused) == (2, 1, 3)
    spool.close()
    assert files(tmp_path) == []


def test_a_full_disk_refuses_counts_and_recovers(tmp_path: Path) -> None:
    """On a file system without space each append says so; what was captured is whole, and freed space is used."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this system does not let the test mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        (disk / "ballast").write_bytes(b"x" * 100_000)
        spool = Spool(disk / "spool")
        outcomes: list[bool] = []
        for n in range(1500):
            if n == 1400:
                (disk / "ballast").unlink()
            try:
                spool.append(EVENT)
                outcomes.append(True)
            except StorageFull:
                outcomes.append(False)
        stats = spool.stats()
        assert not all(outcomes[:1400])
        assert all(outcomes[1400:])
        assert stats.captured == sum(outcomes)
        assert stats.captured + stats.refused + stats.torn == 1500
        records, torn = drain(live(spool))
        assert len(records) == stats.captured
        assert len(torn) == stats.torn
        spool.close()
        assert files(disk / "spool") == []
    finally:
        subprocess.run(["umount", disk], check=True)


# --- many processes


KILLED = """
import os, signal, sys
from adjourn.completion.spool import Spool
spool = Spool(sys.argv[1], fsync=sys.argv[2], segment_bytes=100_000)
event = b'{"x":"' + b"x" * 590 + b'"}'
for _ in range(5000):
    spool.append(event)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("policy", ["background", "never"])
def test_nothing_is_lost_by_sigkill_right_behind_5000_appends(tmp_path: Path, policy: str) -> None:
    """Every append that returned is readable after SIGKILL, in order, with nothing torn."""
    process = start(KILLED, tmp_path, policy)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    records, torn = adopt_all(tmp_path)
    assert [n for n, _ in next(iter(records.values()))] == list(range(1, 5001))
    assert torn == []
    assert files(tmp_path) == []


FORKED = """
import os, sys, threading
from adjourn.completion.spool import Spool
spool = Spool(sys.argv[1], segment_bytes=50_000, fsync_interval_ms=1)
stop = threading.Event()
counts = [0, 0]

def load(i):
    while not stop.is_set():
        spool.append(b'{"p":%d,"t":%d,"i":%d}' % (os.getpid(), i, counts[i]))
        counts[i] += 1

threads = [threading.Thread(target=load, args=(i,)) for i in range(2)]
for thread in threads: thread.start()
children = []
for _ in range(4):
    while counts[0] < 50: pass
    pid = os.fork()
    if pid == 0:
        def burst(i):
            for n in range(300):
                spool.append(b'{"p":%d,"t":%d,"i":%d}' % (os.getpid(), i, n))
        workers = [threading.Thread(target=burst, args=(i,)) for i in range(2)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert spool.stats().captured == 600
        os._exit(0)
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
for thread in threads: thread.join()
print(codes, sum(counts), flush=True)
os._exit(0)
"""


def test_forking_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Children forked while threads append write streams of their own; each event comes out once, numbers are dense."""
    process = start(FORKED, tmp_path)
    result = line_of(process)
    process.communicate(timeout=60)
    codes, _, parent_count = result.rpartition(" ")
    assert codes == "[0, 0, 0, 0]"
    records, torn = adopt_all(tmp_path)
    assert torn == []
    assert len(records) == 5
    for stream in records.values():
        assert [n for n, _ in stream] == list(range(1, len(stream) + 1))
    events = [event for stream in records.values() for _, event in stream]
    assert len(events) == len(set(events)) == int(parent_count) + 4 * 600


ORPHANING = """
import os, sys, time
from adjourn.completion.segments import SpoolReader
from adjourn.completion.spool import Spool
spool = Spool(sys.argv[1])
spool.append(b'{"who":"parent"}')
stream = spool.live_stream()
pid = os.fork()
if pid == 0:
    assert spool.live_stream() is None
    # The parent's stream, still in the child's hands, is inert.
    chunk = stream.read(10, 1000)
    stream.ack(10)
    assert not chunk.records
    spool.append(b'{"who":"child"}')
    print("ready", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


def test_a_dead_parents_stream_is_adopted_while_its_child_lives(tmp_path: Path) -> None:
    """A child holds nothing of its parent's locks: the parent's events do not wait for the child's end."""
    parent = start(ORPHANING, tmp_path)
    word, child = line_of(parent).split()
    assert word == "ready"
    try:
        assert adopt_all(tmp_path)[0] == {}
        parent.kill()
        parent.wait()
        assert [[event for _, event in records] for records in adopt_all(tmp_path)[0].values()] == [
            [b'{"who":"parent"}']
        ]
    finally:
        os.kill(int(child), signal.SIGKILL)
        parent.communicate()
    assert [[event for _, event in records] for records in adopt_all(tmp_path)[0].values()] == [[b'{"who":"child"}']]
    assert files(tmp_path) == []


def test_a_child_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    """A fork whose child exits leaves the parent's live stream locked, and the parent appending where it was."""
    spool = Spool(tmp_path)
    spool.append(EVENT)
    child = start("import os, sys\nos._exit(0)")  # a spawned child inherits no descriptor at all
    child.communicate()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert SpoolReader(tmp_path).claim() == []
    assert spool.append(EVENT).sequence == 2
    assert [n for n, _ in drain(live(spool))[0]] == [1, 2]
    spool.close()
    assert files(tmp_path) == []


APPENDING = """
import sys, threading
from adjourn.completion.spool import Spool
spool = Spool(sys.argv[1], segment_bytes=20_000)
def burst(i):
    for n in range(1000):
        spool.append(b'{"w":"%b","t":%d,"i":%d}' % (sys.argv[2].encode(), i, n))
threads = [threading.Thread(target=burst, args=(i,)) for i in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
spool.close()
"""


def test_one_reader_adopts_from_processes_that_come_and_go_and_the_sum_is_exact(tmp_path: Path) -> None:
    """Two processes of two threads, a reader that adopts what they leave: 4,000 events, each once, and no file left."""
    writers = [start(APPENDING, tmp_path, name) for name in "ab"]
    reader = SpoolReader(tmp_path)
    seen: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(seen) < 4000 and time.monotonic() < deadline:
        for stream in reader.claim():
            records, torn = drain(stream)
            assert torn == []
            seen += [event for _, event in records]
        time.sleep(0.01)
    for writer in writers:
        writer.communicate()
    assert len(seen) == len(set(seen)) == 4000
    assert reader.claim() == []
    assert files(tmp_path) == []


ADOPTING = """
runtime = adjourn.Runtime(settings)
print("ready", flush=True)
sys.stdin.readline()
runtime.start()
print("started", flush=True)
runtime.drain(60)
print("drained", flush=True)
sys.stdin.readline()
runtime.stop()
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_four_runtimes_that_start_at_once_take_what_the_dead_left_once(kind: str, tmp_path: Path) -> None:
    """Twelve dead processes' spools, four runtimes of one database that adopt them in a race, two of which are killed
    in the middle: each event is in the log and at the destination exactly once, and no file is left."""
    mapped = mapping(tmp_path, url_of(kind, tmp_path), capture={"buffer_size": 10})
    captured = [f"{stream}-{n}" for stream in range(12) for n in range(80)]
    for stream in range(12):
        dead = Spool(tmp_path / "spool", fsync="never", segment_bytes=2_000)
        for n in range(80):
            dead.append(raw(f"{stream}-{n}"))
        dead.close()
    racers = [run_python(IMPORTS + ADOPTING, json.dumps(mapped)) for _ in range(4)]
    try:
        assert [_said(racer) for racer in racers] == ["ready"] * 4
        for racer in racers:
            _say(racer)
        assert [_said(racer) for racer in racers] == ["started"] * 4
        for racer in racers[:2]:
            racer.kill()
        assert [_said(racer) for racer in racers[2:]] == ["drained"] * 2
    finally:
        for racer in racers:
            ended(racer)
    with Runtime(settings_of(mapped)) as runtime:
        runtime.start()
        runtime.drain()
        accounts = runtime.call(lambda node: audited(node, captured, f"sqlite:///{tmp_path}/out.db"))
    assert_exact(accounts)
    assert accounts[0].found == len(captured)
    assert files(tmp_path / "spool") == []


def _say(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


def _said(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()
