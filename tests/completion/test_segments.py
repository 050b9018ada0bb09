from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.completion.spooling import drain, files

from adjourn.completion import segments
from adjourn.completion.locks import lock_name, segment_name
from adjourn.completion.segments import CUT_MARK, SpoolReader, decode_record, encode_record
from adjourn.completion.spool import Spool

PRODUCER = "0123456789abcdef01234567"
EVENT = b'{"event_id":"evt_1","final_message":"done"}'

events = st.one_of(
    st.binary().filter(lambda event: b"\n" not in event),
    st.dictionaries(st.text(), st.text(), max_size=3).map(lambda event: json.dumps(event, ensure_ascii=False).encode()),
)


def leave_behind(directory: Path, *blocks: bytes) -> None:
    """The segments of a process that died, one per block."""
    for first, block in enumerate(blocks, 1):
        (directory / segment_name(PRODUCER, first)).write_bytes(block)


@given(events, st.integers(1, 2**63))
def test_a_record_decodes_to_what_was_encoded(event: bytes, sequence: int) -> None:
    """Any event without a raw newline, of any bytes, comes back whole from its one line."""
    line = encode_record(sequence, event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_record(line[:-1]) == (sequence, event)


@given(events, st.integers(1, 2**63), st.data())
def test_no_flipped_bit_goes_unnoticed(event: bytes, sequence: int, data: st.DataObject) -> None:
    """A record with any one bit flipped is refused with a reason; it never decodes to something else."""
    line = bytearray(encode_record(sequence, event)[:-1])
    bit = data.draw(st.integers(0, len(line) * 8 - 1))
    line[bit // 8] ^= 1 << (bit % 8)
    assert isinstance(decode_record(bytes(line)), str)


@given(st.binary())
def test_arbitrary_bytes_are_a_reason_not_an_exception(line: bytes) -> None:
    """Whatever a disk returns, decoding it does not raise."""
    decode_record(line)
    decode_record(b'{"crc":"' + line)


def test_a_record_is_a_line_of_json() -> None:
    """A human can read the spool with jq: each line is one JSON object with crc, n and the event."""
    line = json.loads(encode_record(17, EVENT))
    assert line["n"] == 17
    assert line["event"]["event_id"] == "evt_1"
    assert len(line["crc"]) == 8


def test_a_torn_last_line_of_a_dead_stream_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    """A record whose writer died inside it costs itself alone, and its bytes are handed out for quarantine."""
    leave_behind(tmp_path, encode_record(1, EVENT) + encode_record(2, EVENT)[:30])
    [stream] = SpoolReader(tmp_path).claim()
    records, torn = drain(stream)
    assert records == [(1, EVENT)]
    assert torn == [(encode_record(2, EVENT)[:30], "cut short while it was written")]
    assert files(tmp_path) == []


def test_a_dead_record_that_lacks_only_its_newline_is_torn(tmp_path: Path) -> None:
    """No append returned for it, so it is not passed off as captured."""
    leave_behind(tmp_path, encode_record(1, EVENT)[:-1])
    [stream] = SpoolReader(tmp_path).claim()
    assert drain(stream) == ([], [(encode_record(1, EVENT)[:-1], "cut short while it was written")])


def test_a_flipped_bit_in_the_middle_costs_one_record(tmp_path: Path) -> None:
    """Records before and after a corrupt one are read; the corrupt one comes out with the reason."""
    lines = [bytearray(encode_record(n, EVENT)) for n in (1, 2, 3)]
    lines[1][40] ^= 4
    leave_behind(tmp_path, b"".join(lines))
    [stream] = SpoolReader(tmp_path).claim()
    records, torn = drain(stream)
    assert [n for n, _ in records] == [1, 3]
    assert torn == [(bytes(lines[1][:-1]), "the checksum does not match")]


def test_a_number_that_was_there_before_is_not_passed_on(tmp_path: Path) -> None:
    """The log would take a second record of one number for a duplicate and drop it: it goes to quarantine instead."""
    leave_behind(tmp_path, encode_record(5, EVENT) + encode_record(5, b'{"other":1}'))
    [stream] = SpoolReader(tmp_path).claim()
    records, torn = drain(stream)
    assert records == [(5, EVENT)]
    assert torn[0][1] == "record 5 comes after record 5"


def test_a_line_longer_than_a_block_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block boundaries are invisible: records of any length come out whole, in order, across segments."""
    monkeypatch.setattr(segments, "READ_BYTES", 16)
    leave_behind(tmp_path, encode_record(1, EVENT), b"", encode_record(3, EVENT * 9) + encode_record(4, EVENT))
    [stream] = SpoolReader(tmp_path).claim()
    assert drain(stream) == ([(1, EVENT), (3, EVENT * 9), (4, EVENT)], [])
    assert files(tmp_path) == []


def test_a_chunk_is_bounded_but_never_empty_while_there_is_something(tmp_path: Path) -> None:
    """Both limits hold; a record larger than the limit of bytes still comes, alone."""
    leave_behind(tmp_path, b"".join(encode_record(n, EVENT) for n in range(1, 8)))
    [stream] = SpoolReader(tmp_path).claim()
    assert [n for n, _ in stream.read(3, 1 << 20).records] == [1, 2, 3]
    assert [n for n, _ in stream.read(100, 1).records] == [4]
    assert [n for n, _ in stream.read(100, 100).records] == [5, 6]
    assert [n for n, _ in stream.read(100, 1 << 20).records] == [7]


def test_segments_are_deleted_when_all_of_them_is_acknowledged_and_not_before(tmp_path: Path) -> None:
    """A segment with one record outstanding stays; the lock file goes with the last segment."""
    leave_behind(tmp_path, encode_record(1, EVENT) + encode_record(2, EVENT), encode_record(3, EVENT))
    [stream] = SpoolReader(tmp_path).claim()
    first, second, third = (stream.read(1, 1 << 20) for _ in range(3))
    assert stream.read(1, 1 << 20).records == []
    stream.ack(first.end)
    assert len(files(tmp_path)) == 3
    stream.ack(second.end)
    assert files(tmp_path) == [segment_name(PRODUCER, 2), lock_name(PRODUCER)]
    assert not stream.finished
    stream.ack(third.end)
    assert files(tmp_path) == []
    assert stream.finished


def test_acknowledging_records_does_not_acknowledge_torn_lines_read_after_them(tmp_path: Path) -> None:
    """A reader that reads ahead loses no torn line: each chunk's own end covers what that chunk held."""
    leave_behind(tmp_path, encode_record(1, EVENT) + b"garbage\n")
    [stream] = SpoolReader(tmp_path).claim()
    record = stream.read(1, 1 << 20)
    torn = stream.read(1, 1 << 20)
    assert torn.torn == [(b"garbage", "not a spool record")]
    assert stream.read(1, 1 << 20).records == []
    stream.ack(record.end)
    assert segment_name(PRODUCER, 1) in files(tmp_path)
    stream.ack(torn.end)
    assert files(tmp_path) == []


def test_an_adopter_that_gives_up_leaves_everything_to_the_next(tmp_path: Path) -> None:
    """What was read but not acknowledged is read again by the next adopter, from the segment's start."""
    leave_behind(tmp_path, encode_record(1, EVENT) + encode_record(2, EVENT))
    first, second = SpoolReader(tmp_path), SpoolReader(tmp_path)
    [stream] = first.claim()
    stream.ack(stream.read(1, 1 << 20).end)
    assert second.claim() == []
    first.close()
    first.close()
    assert stream.read(1, 1 << 20).records == []
    [again] = second.claim()
    assert second.claim() == [again]
    assert [n for n, _ in drain(again)[0]] == [1, 2]
    assert second.claim() == []


def test_a_segment_that_an_operator_removed_is_passed_over(tmp_path: Path) -> None:
    """Reading goes on with the segments that remain, and nothing is left behind."""
    leave_behind(tmp_path, encode_record(1, EVENT), encode_record(2, EVENT), encode_record(3, EVENT))
    [stream] = SpoolReader(tmp_path).claim()
    (tmp_path / segment_name(PRODUCER, 2)).unlink()
    assert [n for n, _ in drain(stream)[0]] == [1, 3]
    assert files(tmp_path) == []


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    """Only names of the spool's own pattern are read or deleted."""
    (tmp_path / "notes.jsonl").write_text("{}\n")
    (tmp_path / "README.lock").write_text("")
    assert SpoolReader(tmp_path).claim() == []
    assert SpoolReader(tmp_path / "missing").claim() == []
    assert files(tmp_path) == ["README.lock", "notes.jsonl"]


def test_a_record_is_readable_while_its_segment_is_being_written(tmp_path: Path) -> None:
    """A reader in another thread sees each record within moments of its append, once, in order."""
    spool = Spool(tmp_path, segment_bytes=4096)
    reader = SpoolReader(tmp_path, own=spool.live_stream)
    seen: list[int] = []
    delays: list[float] = []

    def read_all() -> None:
        deadline = time.monotonic() + 10
        while len(seen) < 3000 and time.monotonic() < deadline:
            for stream in reader.claim():
                chunk = stream.read(100, 1 << 20)
                delays.extend(time.monotonic() - json.loads(event)["at"] for _, event in chunk.records)
                seen.extend(n for n, _ in chunk.records)
                stream.ack(chunk.end)

    thread = threading.Thread(target=read_all)
    thread.start()
    for _ in range(3000):
        spool.append(b'{"at":%f}' % time.monotonic())
    thread.join()
    spool.close()
    assert seen == list(range(1, 3001))
    assert sorted(delays)[len(delays) // 2] < 0.5
    assert files(tmp_path) == []


def test_the_unfinished_last_line_of_a_live_segment_is_not_torn(tmp_path: Path) -> None:
    """What a writer has only half written is not there yet; once its newline is, it is a record."""
    spool = Spool(tmp_path)
    spool.append(EVENT)
    stream = spool.live_stream()
    assert stream is not None
    assert [n for n, _ in drain(stream)[0]] == [1]
    [path] = tmp_path.glob("*.jsonl")
    half = encode_record(2, EVENT)
    with path.open("ab", buffering=0) as file:
        file.write(half[:25])
        assert drain(stream) == ([], [])
        file.write(half[25:])
        assert drain(stream) == ([(2, EVENT)], [])
    spool.close()


def test_the_mark_of_a_cut_record_never_ends_a_whole_one() -> None:
    """A whole record ends in a brace, so no event's content can pass for a torn line."""
    assert decode_record(encode_record(1, b'"' + CUT_MARK + b'"')[:-1]) == (1, b'"' + CUT_MARK + b'"')
    assert decode_record(encode_record(1, CUT_MARK)[:-1]) == (1, CUT_MARK)


def test_a_quiet_live_segment_that_is_all_acknowledged_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while without appends nothing is left that a restart would read again; the stream then goes on."""
    monkeypatch.setattr(segments, "IDLE_SECONDS", 0.0)
    spool = Spool(tmp_path)
    spool.append(EVENT)
    stream = spool.live_stream()
    assert stream is not None
    assert drain(stream)[0] == [(1, EVENT)]
    assert drain(stream) == ([], [])
    assert list(tmp_path.glob("*.jsonl")) == []
    assert spool.append(EVENT).sequence == 2
    assert drain(stream)[0] == [(2, EVENT)]
    spool.close()
    assert files(tmp_path) == []
