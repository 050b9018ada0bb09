"""When triggers are due, what they say, and which of them can be."""

from __future__ import annotations

import random

import msgspec
import pytest

from adjourn.clock import rfc3339
from adjourn.errors import TriggerInvalid
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.triggers import (
    FILES_PER_TURN,
    RETRY_MS_MAX,
    TRIGGERS_MAX,
    CronTrigger,
    File,
    FileTrigger,
    IntervalTrigger,
    Seen,
    Trigger,
    WebhookTrigger,
    after,
    check,
    check_all,
    first_ms,
    folders_for,
    following_ms,
    mark_of,
    pending,
    pending_files,
    place_of,
    said,
    too_far_ms,
    unpacked,
    written,
)
from adjourn.typed import decoder

NOW_MS = 1_700_000_000_000
EVERY_MINUTE = IntervalTrigger(name="a", prompt="look", every_ms=60_000)
HOURLY = CronTrigger(name="a", prompt="it was {time}", expression="@hourly")
FILES = FileTrigger(name="a", prompt="read {files}", path="inbox")


class Holder(msgspec.Struct):
    trigger: Trigger


# --- when ------------------------------------------------------------------------------------------------------------


def test_what_was_missed_is_made_up_once_as_the_last_of_it() -> None:
    """After three and a half periods in which nobody looked: one turn, for the last of the missed times, and the next
    one in step with those before."""
    due_ms = NOW_MS + 60_000
    now_ms = due_ms + 3 * 60_000 + 30_000
    assert pending(EVERY_MINUTE, "s", due_ms, 1, now_ms).key == f"trigger/s/a/{due_ms + 180_000}/1"
    assert following_ms(EVERY_MINUTE, due_ms, now_ms, "") == due_ms + 240_000
    hour = 3_600_000
    due_ms = first_ms(HOURLY, NOW_MS, "") or 0
    now_ms = due_ms + 5 * hour + 1
    missed = pending(HOURLY, "s", due_ms, 1, now_ms)
    assert missed.key == f"trigger/s/a/{due_ms + 5 * hour}"
    assert missed.prompt == f"it was {rfc3339(due_ms + 5 * hour)}"
    assert following_ms(HOURLY, due_ms, now_ms, "") == due_ms + 6 * hour


def test_the_next_time_is_always_after_now(rng: random.Random) -> None:
    """However late or early anybody looks, nothing is due at once again."""
    for trigger in (EVERY_MINUTE, HOURLY, FILES, IntervalTrigger(name="a", prompt="x", every_ms=1000, jitter_ms=5000)):
        for _ in range(200):
            now_ms = NOW_MS + rng.randint(-(10**9), 10**9)
            following = following_ms(trigger, NOW_MS, now_ms, str(rng.random()))
            assert following is not None
            assert following > now_ms


def test_jitter_spreads_sessions_and_is_the_same_when_asked_again() -> None:
    """A thousand sessions that begin at once do not come back at once; a transaction that runs again decides the
    same."""
    trigger = IntervalTrigger(name="a", prompt="x", every_ms=60_000, jitter_ms=30_000)
    times = [first_ms(trigger, NOW_MS, f"t/{n}/a") or 0 for n in range(1000)]
    assert times == [first_ms(trigger, NOW_MS, f"t/{n}/a") for n in range(1000)]
    assert all(60_000 <= at - NOW_MS <= 90_000 for at in times)
    assert len(set(times)) > 900


def test_what_is_off_or_called_is_never_due() -> None:
    """A trigger that is switched off, and a webhook."""
    off = msgspec.structs.replace(EVERY_MINUTE, enabled=False)
    assert first_ms(off, NOW_MS, "") is None
    assert first_ms(WebhookTrigger(name="a", prompt="x"), NOW_MS, "") is None


def test_only_what_a_clock_that_was_ahead_worked_out_is_brought_nearer(rng: random.Random) -> None:
    """What stands as it would be worked out now stays; a time years ahead, from a clock that was, does not."""
    for trigger in (EVERY_MINUTE, HOURLY, FILES, IntervalTrigger(name="a", prompt="x", every_ms=1000, jitter_ms=9000)):
        for _ in range(100):
            made_ms = NOW_MS + rng.randint(0, 10**8)
            first = first_ms(trigger, made_ms, "t") or 0
            assert too_far_ms(trigger, first, made_ms + rng.randint(0, max(0, first - made_ms)), "t") is None
        ahead = following_ms(trigger, NOW_MS + 10**11, NOW_MS + 10**11, "t") or 0
        nearer = too_far_ms(trigger, ahead, NOW_MS, "t")
        assert nearer is not None
        assert nearer <= NOW_MS + 3_600_000


# --- what came of it --------------------------------------------------------------------------------------------------


def test_a_time_is_left_out_and_files_wait_while_a_turn_runs() -> None:
    """`skip` for a time means the next one; files are asked for again, under the same key."""
    asked = pending(EVERY_MINUTE, "s", NOW_MS, 1, NOW_MS)
    next_ms, seen = after(EVERY_MINUTE, Seen(), asked, "busy", error="", now_ms=NOW_MS, salt="")
    assert (next_ms, seen) == (NOW_MS + 60_000, Seen())
    files = pending_files(FILES, "s", Seen(), [File("a", b"12345678", 1)], 1, NOW_MS)
    assert files is not None
    next_ms, seen = after(FILES, Seen(pending=files), files, "busy", error="", now_ms=NOW_MS, salt="")
    assert (next_ms, seen.pending, seen.marks) == (NOW_MS + 5_000, files, "")


def test_what_nobody_could_say_is_asked_again_later_and_later_under_the_same_key() -> None:
    """The wait doubles up to a minute; the key stays, so that a turn that had begun after all is not begun again."""
    asked, waits = pending(EVERY_MINUTE, "s", NOW_MS, 1, NOW_MS), list[int]()
    for _ in range(10):
        next_ms, seen = after(EVERY_MINUTE, Seen(), asked, "later", error="away", now_ms=NOW_MS, salt="")
        assert seen.pending is not None
        assert next_ms is not None
        assert (seen.pending.key, seen.error) == (asked.key, "away")
        asked = seen.pending
        waits.append(next_ms - NOW_MS)
    assert waits[:3] == [2_000, 4_000, 8_000]
    assert max(waits) == RETRY_MS_MAX


def test_files_are_handled_once_their_turn_has_started() -> None:
    """Not when it was asked for; and what is refused is asked for again."""
    files = pending_files(FILES, "s", Seen(), [File("a", b"12345678", 1)], 1, NOW_MS)
    assert files is not None
    _, seen = after(FILES, Seen(pending=files), files, "started", error="", now_ms=NOW_MS, salt="")
    assert (unpacked(seen.marks), seen.pending, seen.fired_ms) == ([b"12345678"], None, NOW_MS)
    next_ms, seen = after(FILES, Seen(pending=files), files, "refused", error="no money", now_ms=NOW_MS, salt="")
    assert seen.pending is not None
    assert (next_ms or 0) > NOW_MS


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_told_once_oldest_first_and_so_many_at_a_time() -> None:
    """More than one turn is told of go to the turns that follow; what has gone is forgotten, a new version is told."""
    files = [File(f"f{n:03}", mark_of(n), 1000 - n) for n in range(250)]
    seen, told = Seen(), list[str]()
    for count in (FILES_PER_TURN, FILES_PER_TURN, 50):
        asked = pending_files(FILES, "s", seen, files, 1, NOW_MS)
        assert asked is not None
        names = asked.prompt.removeprefix("read ").split("\n")
        assert len(names) == count
        told += names
        seen = Seen(marks=asked.marks or "")
    assert told == [file.shown for file in reversed(files)]
    assert pending_files(FILES, "s", seen, files, 1, NOW_MS) is None
    changed = [files[0]._replace(mark=mark_of("new")), *files[100:]]
    asked = pending_files(FILES, "s", seen, changed, 1, NOW_MS)
    assert asked is not None
    assert asked.prompt == "read f000"
    assert len(unpacked(asked.marks or "")) == 151


def test_a_prompt_is_filled_once() -> None:
    """What is put in is not looked at again; other braces stay; a name with a line break cannot pass for two."""
    assert said('{"a": {body}} {x}', body="{time}") == '{"a": {time}} {x}'
    text = said("{files} at {time}", time_ms=0, files=["a b", "c\nd", "\udcff", "é"])
    assert text == 'a b\n"c\\nd"\n"\\udcff"\né at 1970-01-01T00:00:00.000Z'
    text.encode()


# --- what may be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_only_patterns_that_start_turns_may_have_triggers(pattern: str) -> None:
    """The row of the pattern decides; the refusal names the pattern that may."""
    name = next(name for name in PATTERNS if name == pattern)
    check_all(name, [])
    if PATTERNS[name].starts_turns:
        check_all(name, [EVERY_MINUTE])
        return
    with pytest.raises(TriggerInvalid, match="make it long_running") as caught:
        check_all(name, [EVERY_MINUTE])
    assert caught.value.path == "triggers"


@pytest.mark.parametrize(
    ("trigger", "path", "says"),
    [
        (IntervalTrigger(name="", prompt="x", every_ms=1000), "name", "1 to 64"),
        (IntervalTrigger(name=".a", prompt="x", every_ms=1000), "name", "no dot in front"),
        (IntervalTrigger(name="a/b", prompt="x", every_ms=1000), "name", "letters"),
        (IntervalTrigger(name="a", prompt="{files}", every_ms=1000), "prompt", "may have {time}"),
        (WebhookTrigger(name="a", prompt="{time}"), "prompt", "may have {body}"),
        (CronTrigger(name="a", prompt="x", expression="* * *"), "expression", "3 fields"),
        (CronTrigger(name="a", prompt="x", expression="@daily", time_zone="Nowhere"), "time_zone", "IANA"),
        (FileTrigger(name="a", prompt="x", path="../x"), "path", "'..'"),
        (FileTrigger(name="a", prompt="x", path="a/**/b"), "path", "each level"),
        (FileTrigger(name="a", prompt="x", path="/etc"), "path", "hosting.watch_folders"),
        (FileTrigger(name="a", prompt="x", path="/srv/inbox-of-others"), "path", "hosting.watch_folders"),
        (FileTrigger(name="a", prompt="x", path="/srv/inbox/../../etc"), "path", "'..'"),
        (FileTrigger(name="a", prompt="x", path="a\0b"), "path", "zero byte"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(trigger: Trigger, path: str, says: str) -> None:
    """By itself, and within a session that is to be made."""
    with pytest.raises(TriggerInvalid) as caught:
        check(trigger, ["/srv/inbox"])
    assert caught.value.path == path
    assert says in caught.value.message
    good = msgspec.structs.replace(EVERY_MINUTE, name="good")
    with pytest.raises(TriggerInvalid) as caught:
        check_all("long_running", [good, trigger], ["/srv/inbox"])
    assert caught.value.path == f"triggers[1].{path}"


def test_names_are_told_apart_and_counted() -> None:
    """Two of one name, and more than a session may have."""
    with pytest.raises(TriggerInvalid, match="two triggers are called a"):
        check_all("long_running", [EVERY_MINUTE, HOURLY])
    many = [msgspec.structs.replace(EVERY_MINUTE, name=f"t{n}") for n in range(TRIGGERS_MAX + 1)]
    check_all("long_running", many[1:])
    with pytest.raises(TriggerInvalid, match="at most"):
        check_all("long_running", many)


def test_a_place_is_in_the_workspace_or_in_an_allowed_folder() -> None:
    """Relative names are the workspace's; absolute ones belong to the folder that holds them, a tenant's own too."""
    folders = folders_for("acme", ["/srv/mail/{tenant}", "/srv/shared/"])
    assert folders == ["/srv/mail/acme", "/srv/shared"]
    assert place_of("./inbox/*.txt", folders) == ("", ["inbox", "*.txt"])
    assert place_of("/srv/mail/acme/new", folders) == ("/srv/mail/acme", ["new"])
    assert place_of("/srv/shared", folders) == ("/srv/shared", [])
    with pytest.raises(TriggerInvalid):
        place_of("/srv/mail/other", folders)


def test_bounds_are_part_of_the_form() -> None:
    """Intervals under a second, unknown kinds and unknown fields are refused where they are read."""
    read = decoder(Holder)
    for body in (
        b'{"trigger":{"kind":"interval","prompt":"x","every_ms":999}}',
        b'{"trigger":{"kind":"interval","prompt":"","every_ms":1000}}',
        b'{"trigger":{"kind":"interval","prompt":"x"}}',
        b'{"trigger":{"kind":"moon","prompt":"x"}}',
        b'{"trigger":{"kind":"webhook","prompt":"x","every_ms":1000}}',
        b'{"trigger":{"kind":"webhook","prompt":"x","overlap":"both"}}',
    ):
        with pytest.raises(msgspec.ValidationError):
            read.decode(body)


def test_what_it_remembers_is_read_as_it_was_written() -> None:
    """All of it, and nothing where there is nothing."""
    files = pending_files(FILES, "s", Seen(), [File("a", b"12345678", 1)], 1, NOW_MS)
    for seen in (Seen(), Seen(marks="AAAA", pending=files, fired_ms=1, error="x")):
        assert decoder(Seen).decode(written(seen)) == seen
    assert written(Seen()) == "{}"
