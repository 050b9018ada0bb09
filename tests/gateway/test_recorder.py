"""From calls to closed sessions, with a clock that is told what time it is."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adjourn.clock import ManualClock
from adjourn.gateway import recorder as module
from adjourn.gateway.journal import Journal
from adjourn.gateway.recorder import INTERRUPTED, Headers, Recorder
from adjourn.gateway.requests import Asked
from adjourn.gateway.usage import Document, Reading
from adjourn.prices import PriceTable

KEY: Headers = [(b"authorization", b"Bearer k"), (b"user-agent", b"x/1")]
PRICES = PriceTable()
Make = Callable[[], Recorder]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make(tmp_path: Path, clock: ManualClock) -> Generator[Make]:
    made: list[Recorder] = []

    def again() -> Recorder:
        """As after a kill: the last one just ends, and the file is what it left."""
        if made:
            made[-1].close()
        journal = Journal(tmp_path / "x.journal", fsync="never", fsync_interval_ms=1)
        made.append(Recorder(journal, PRICES, clock, idle_s=60))
        return made[-1]

    yield again
    made[-1].close()


def told(tokens: int, id: str = "") -> Reading:
    reading = Reading()
    usage = {"input_tokens": tokens, "output_tokens": 1}
    reading.take(Document(usage=usage, model="gpt-4o", id=id))
    return reading


def whole(recorder: Recorder, asked: Asked = Asked(), headers: Headers = KEY, id: str = "") -> str:
    path = "/v1/responses" if id else "/v1/chat/completions"
    call = recorder.begin(asked, headers, "1.2.3.4", path)
    recorder.used(call, told(10, id), streamed=False, status="success")
    return call.ref


def waiting(recorder: Recorder) -> list[dict[str, Any]]:
    return [json.loads(bytes(closed.completion)) for closed in recorder.sessions.waiting.values()]


def test_silence_is_counted_from_the_last_sign(make: Make, clock: ManualClock) -> None:
    """Each call puts the end off; a call that lasts holds it open; the end time is that of the last sign of life."""
    recorder = make()
    first = whole(recorder)
    clock.advance(59)
    assert whole(recorder) == first
    clock.advance(59)
    call = recorder.begin(Asked(), KEY, "1.2.3.4", "/v1/messages")
    clock.advance(600)
    recorder.sweep()
    assert not recorder.sessions.waiting
    recorder.used(call, told(1), streamed=True, status="success")
    ended_ms = clock.wall_ms()
    clock.advance(60)
    recorder.sweep()
    assert [c["event_id"] for c in waiting(recorder)] == [first]
    assert waiting(recorder)[0]["session"]["duration_ms"] == 59_000 * 2 + 600_000
    assert recorder.sessions.waiting[1].ref == first
    assert ended_ms < clock.wall_ms()
    assert whole(recorder) != first


def test_a_clock_step_ends_nothing(make: Make, clock: ManualClock) -> None:
    """Silence is measured by the clock that does not step; an end is never before its start."""
    recorder = make()
    call = recorder.begin(Asked(), KEY, "1.2.3.4", "/v1/messages")
    clock.step_wall(-3600)
    recorder.used(call, told(1), streamed=False, status="success")
    clock.step_wall(7200)
    recorder.sweep()
    assert not recorder.sessions.waiting
    clock.advance(60)
    recorder.sweep()
    assert waiting(recorder)[0]["session"]["duration_ms"] == 0


def test_answers_are_continued(make: Make) -> None:
    """A chain of `previous_response_id` is one session, whoever makes the calls, also after a restart."""
    recorder = make()
    first = whole(recorder, id="resp_1")
    other: Headers = [(b"authorization", b"Bearer k"), (b"user-agent", b"another")]
    assert whole(recorder, Asked(previous_response_id="resp_1"), other, id="resp_2") == first
    recorder = make()
    assert whole(recorder, Asked(previous_response_id="resp_2"), other, id="resp_3") == first
    stranger: Headers = [(b"authorization", b"Bearer other")]
    assert whole(recorder, Asked(previous_response_id="resp_2"), stranger) != first


def test_a_restart_goes_on(make: Make, clock: ManualClock) -> None:
    """Open sessions go on from when they were last active; calls that were under way are failed ones, with what they
    had told; what was closed waits under the same number with the same bytes."""
    recorder = make()
    ended = whole(recorder, Asked(session_id="ended"))
    assert recorder.end_session(KEY, "ended")
    assert not recorder.end_session(KEY, "ended")
    cut = recorder.begin(Asked(session_id="cut"), KEY, "1.2.3.4", "/v1/messages")
    recorder.used(cut, told(5), streamed=True)
    before = dict(recorder.sessions.waiting)
    clock.advance(40)
    recorder = make()
    assert {n: (c.ref, bytes(c.completion)) for n, c in recorder.sessions.waiting.items()} == {
        n: (c.ref, bytes(c.completion)) for n, c in before.items()
    }
    clock.advance(25)
    recorder.sweep()
    found = waiting(recorder)
    assert [c["event_id"] for c in found] == [ended, cut.ref]
    assert found[1]["outcome"] == {"status": "error", "error_code": INTERRUPTED}
    assert (found[1]["usage"]["input_tokens"], found[1]["session"]["duration_ms"]) == (5, 0)
    recorder.taken(2)
    assert not make().sessions.waiting
    whole(recorder := make(), Asked(session_id="next"))
    recorder.end_session(KEY, "next")
    assert list(recorder.sessions.waiting) == [3], "numbers go on"


def test_an_end_waits_for_calls_under_way(make: Make) -> None:
    """A session that is told to end while another of its calls is under way takes no new call, and ends with that one;
    a kill in between changes nothing of it."""
    recorder = make()
    slow = recorder.begin(Asked(session_id="s"), KEY, "1.2.3.4", "/v1/messages")
    last = recorder.begin(Asked(session_id="s"), [*KEY, (b"x-adjourn-session-end", b"1")], "1.2.3.4", "/v1/messages")
    assert last.ref == slow.ref
    recorder.used(last, told(1), streamed=False, status="success")
    assert not recorder.sessions.waiting
    later = whole(recorder, Asked(session_id="s"))
    assert later != slow.ref
    recorder.used(slow, told(2), streamed=False, status="success")
    assert [c["event_id"] for c in waiting(recorder)] == [slow.ref]
    assert waiting(recorder)[0]["usage"]["input_tokens"] == 3

    slow = recorder.begin(Asked(session_id="t"), KEY, "1.2.3.4", "/v1/messages")
    recorder.end_session(KEY, "t")
    recorder = make()
    recorder.sweep()
    assert slow.ref in [c["event_id"] for c in waiting(recorder)]


def test_nothing_is_closed_that_is_not_written(make: Make, clock: ManualClock, tmp_path: Path) -> None:
    """With a full disk calls are counted in memory and no number is used; when there is room, all of it is there."""
    recorder = make()
    ref = whole(recorder)
    path = tmp_path / "x.journal"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        assert whole(recorder) == ref
        clock.advance(100)
        recorder.sweep()
        assert not recorder.sessions.waiting
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    recorder.sweep()
    assert waiting(recorder)[0]["usage"]["input_tokens"] == 20
    assert waiting(make())[0]["usage"]["input_tokens"] == 20


def test_too_many_sessions_end_the_most_silent(make: Make, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by ending sessions early, not by losing them."""
    monkeypatch.setattr(module, "OPEN_MAX", 3)
    recorder = make()
    refs: list[str] = []
    for number in range(5):
        refs.append(whole(recorder, Asked(session_id=f"s{number}")))
        clock.advance(1)
    whole(recorder, Asked(session_id="s0"))
    recorder.sweep()
    assert [c["event_id"] for c in waiting(recorder)] == [refs[1], refs[2]]


def test_each_call_has_its_price(make: Make) -> None:
    """By genai-prices, of the model that answered, cached tokens as such."""
    recorder = make()
    call = recorder.begin(Asked(model="asked"), KEY, "1.2.3.4", "/v1/chat/completions")
    reading = Reading()
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 400}}
    reading.take(Document(usage=msgspec.json.decode(msgspec.json.encode(usage)), model="gpt-4o"))
    recorder.used(call, reading, streamed=False, status="success")
    [session] = recorder.sessions.open.values()
    assert session.models["gpt-4o"].cost_nanousd == 600 * 2500 + 400 * 1250 + 10 * 10_000
