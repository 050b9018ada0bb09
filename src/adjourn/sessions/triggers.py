"""Triggers: when a session that is hosted for long starts a turn by itself, and with what prompt. Pure.

Four kinds, as data: at intervals, by the clock, when files appear or change, and when a webhook is called. A time that
nobody was there for is made up once, however many of them there were: as the last one of them.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from adjourn.clock import rfc3339
from adjourn.errors import TriggerInvalid
from adjourn.sessions import cron
from adjourn.sessions.hosting import PATTERNS, Pattern

TRIGGERS_MAX = 32
"""Of one session."""
FILES_PER_TURN = 100
"""The rest are named to the turns that follow."""
MARK_BYTES = 8
RETRY_MS = 1_000
RETRY_MS_MAX = 60_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PLACES = re.compile(r"\{(files|body|time)\}")
_GIVEN = {"interval": ("time",), "cron": ("time",), "file": ("files", "time"), "webhook": ("body",)}
"""Not the time of a call: one that is sent again must say the same."""
_encode = msgspec.json.Encoder().encode

Prompt = Annotated[str, Meta(min_length=1, max_length=100_000)]
EveryMs = Annotated[int, Meta(ge=1_000, le=31_622_400_000)]


class _Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """`prompt` is said to the session; `{time}`, `{files}` and `{body}` in it are replaced, where the kind has them."""

    name: Annotated[str, Meta(max_length=64)] = ""
    """Letters, digits, `_`, `.` and `-`; it may be left away where the address has it."""
    prompt: Prompt
    overlap: Literal["skip", "queue"] = "skip"
    """While a turn runs: leave this time out (files wait until the turn has ended), or wait for the turn."""
    enabled: bool = True


class IntervalTrigger(_Trigger, frozen=True, tag="interval"):
    """Every so often; each time up to `jitter_ms` later, so that many sessions do not start at once."""

    every_ms: EveryMs
    jitter_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 0


class CronTrigger(_Trigger, frozen=True, tag="cron"):
    """When the clocks of `time_zone` show it."""

    expression: Annotated[str, Meta(max_length=256)]
    time_zone: Annotated[str, Meta(max_length=64)] = "UTC"


class FileTrigger(_Trigger, frozen=True, tag="file"):
    """When files appear or change. `path`: a file, a folder, a maildir, or names with `*`, `?` and `[…]`; in the
    session's workspace, or absolute within one of `hosting.watch_folders`. Looked at each `every_ms`."""

    path: Annotated[str, Meta(min_length=1, max_length=1_024)]
    every_ms: EveryMs = 5_000


class WebhookTrigger(_Trigger, frozen=True, tag="webhook"):
    """When `POST /v1/sessions/{id}/triggers/{name}` is called."""


Trigger = IntervalTrigger | CronTrigger | FileTrigger | WebhookTrigger


class Pending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn that is to be started and may have been: it is asked for under this key until that is known."""

    due_ms: int
    key: str
    prompt: str
    tries: int = 0
    marks: str | None = None
    """Those of the files that are handled once it has started."""


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a trigger remembers."""

    marks: str = ""
    """Of each file that was handled and is still there, 8 bytes; in Base64."""
    pending: Pending | None = None
    fired_ms: int | None = None
    error: str = ""
    """Why it could not fire last."""


class File(NamedTuple):
    """One that is there. `mark` differs for each of its versions."""

    shown: str
    mark: bytes
    changed_ns: int


# --- what may be -----------------------------------------------------------------------------------------------------


def check_all(pattern: Pattern, triggers: Sequence[Trigger], folders: Sequence[str] = ()) -> None:
    """Raises TriggerInvalid, with the path. `folders` are those outside of the workspace in which files may be
    watched."""
    if triggers:
        check_pattern(pattern)
    if len(triggers) > TRIGGERS_MAX:
        raise TriggerInvalid(
            f"a session has {TRIGGERS_MAX} triggers at most; {len(triggers)} are given", path="triggers"
        )
    names = set[str]()
    for i, trigger in enumerate(triggers):
        try:
            check(trigger, folders)
        except TriggerInvalid as error:
            raise TriggerInvalid(error.message, path=f"triggers[{i}].{error.path}") from None
        if trigger.name in names:
            fact = f"two triggers are called {trigger.name}"
            raise TriggerInvalid(f"{fact}; give each a name of its own", path=f"triggers[{i}].name")
        names.add(trigger.name)


def check_pattern(pattern: Pattern) -> None:
    """Raises TriggerInvalid for one whose sessions have no triggers."""
    if not PATTERNS[pattern].starts_turns:
        may = " or ".join(name for name, hosting in PATTERNS.items() if hosting.starts_turns)
        fact = f"a session of the pattern {pattern} starts no turns by itself"
        raise TriggerInvalid(f"{fact}; leave its triggers out, or make it {may}", path="triggers")


def check(trigger: Trigger, folders: Sequence[str] = ()) -> None:
    """Raises TriggerInvalid."""
    if not _NAME.fullmatch(trigger.name):
        fact = f"a trigger cannot be called {trigger.name!r}"
        raise TriggerInvalid(f"{fact}; give 1 to 64 letters, digits, '_', '.' or '-', no dot in front", path="name")
    kind = kind_of(trigger)
    for place in _PLACES.findall(trigger.prompt):
        if place not in _GIVEN[kind]:
            may = " and ".join(f"{{{name}}}" for name in _GIVEN[kind])
            fact = f"the prompt has {{{place}}}, which a trigger of the kind {kind} does not know"
            raise TriggerInvalid(f"{fact}; it may have {may}", path="prompt")
    if isinstance(trigger, CronTrigger):
        cron.parse(trigger.expression)
        cron.zone_of(trigger.time_zone)
    elif isinstance(trigger, FileTrigger):
        place_of(trigger.path, folders)


def kind_of(trigger: Trigger) -> str:
    return str(trigger.__struct_config__.tag)


def place_of(path: str, folders: Sequence[str]) -> tuple[str, list[str]]:
    """(the folder outside of the workspace that it is in, or empty; the names from there). Raises TriggerInvalid."""
    absolute = path.startswith("/")
    base = next((folder for folder in folders if absolute and _within(path, folder)), "")
    names = [name for name in path[len(base) :].split("/") if name not in ("", ".")]
    problem = ""
    if "\0" in path or ".." in path.split("/"):
        problem = "holds '..' or a zero byte; name a place within the workspace"
    elif "**" in path:
        problem = "holds '**'; name each level of folders, as in 'inbox/*/*.txt'"
    elif absolute and not base:
        problem = (
            "is outside of the session's workspace; give one within it, or add its folder to hosting.watch_folders"
        )
    if problem:
        raise TriggerInvalid(f"the path {path[:200]!r} {problem}", path="path")
    return base, names


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def folders_for(tenant: str, folders: Sequence[str]) -> list[str]:
    """Those of the setting that a tenant may watch; `{tenant}` in one stands for its name, which is a folder's."""
    return [posixpath.normpath(folder.replace("{tenant}", tenant)) for folder in folders]


# --- when ------------------------------------------------------------------------------------------------------------


def first_ms(trigger: Trigger, now_ms: int, salt: str) -> int | None:
    """When to look at a new trigger first; None: never by itself."""
    if not trigger.enabled or isinstance(trigger, WebhookTrigger):
        return None
    if isinstance(trigger, FileTrigger):
        return now_ms
    if isinstance(trigger, CronTrigger):
        return cron.next_ms(cron.parse(trigger.expression), now_ms, cron.zone_of(trigger.time_zone))
    return now_ms + trigger.every_ms + _jitter(trigger, now_ms, salt)


def occurrence_ms(trigger: Trigger, due_ms: int, now_ms: int) -> int:
    """The last time that is not after now, where `due_ms` is the first that nobody was there for."""
    if isinstance(trigger, CronTrigger):
        return cron.last_ms(cron.parse(trigger.expression), due_ms, now_ms, cron.zone_of(trigger.time_zone))
    if isinstance(trigger, IntervalTrigger):
        return due_ms + max(0, now_ms - due_ms) // trigger.every_ms * trigger.every_ms
    return due_ms


def following_ms(trigger: Trigger, due_ms: int, now_ms: int, salt: str) -> int | None:
    """When to look at it after `due_ms`: after now, too."""
    if isinstance(trigger, IntervalTrigger):
        last = occurrence_ms(trigger, due_ms, now_ms)
        return last + trigger.every_ms + _jitter(trigger, last, salt)
    if isinstance(trigger, FileTrigger):
        return now_ms + trigger.every_ms
    return first_ms(trigger, max(due_ms, now_ms), salt)


def too_far_ms(trigger: Trigger, next_ms: int, now_ms: int, salt: str) -> int | None:
    """When to look at it instead, where the clock was set back since `next_ms` was worked out; None: that stands."""
    if isinstance(trigger, FileTrigger):
        slack = trigger.every_ms + RETRY_MS_MAX
    else:
        slack = trigger.jitter_ms + RETRY_MS_MAX if isinstance(trigger, IntervalTrigger) else 0
    first = first_ms(trigger, now_ms, salt)
    return first if first is not None and next_ms > first + slack else None


Outcome = Literal["started", "busy", "later", "refused"]
"""Of asking for a turn: it has started, or waits; one runs; nobody could say; it was refused."""


def after(
    trigger: Trigger, seen: Seen, asked: Pending, outcome: Outcome, *, error: str, now_ms: int, salt: str
) -> tuple[int | None, Seen]:
    """(when to look at it next, what it remembers). Files wait until they are handled; a time that is refused or finds
    a turn running is left out; what nobody could say is asked again, under the same key."""
    keeps = outcome == "later" or (outcome != "started" and isinstance(trigger, FileTrigger))
    tries = asked.tries + 1 if outcome in ("later", "refused") else 0
    found = Seen(
        marks=asked.marks if outcome == "started" and asked.marks is not None else seen.marks,
        pending=msgspec.structs.replace(asked, tries=tries) if keeps else None,
        fired_ms=now_ms if outcome == "started" else seen.fired_ms,
        error=error,
    )
    if keeps and tries:
        return now_ms + min(RETRY_MS << min(tries, 16), RETRY_MS_MAX), found
    return following_ms(trigger, asked.due_ms, now_ms, salt), found


def _jitter(trigger: IntervalTrigger, at_ms: int, salt: str) -> int:
    """Not random: a transaction that runs again must come to the same."""
    drawn = hashlib.blake2b(f"{salt}/{at_ms}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) % (trigger.jitter_ms + 1)


# --- what is said ----------------------------------------------------------------------------------------------------


def pending(trigger: Trigger, session_id: str, due_ms: int, revision: int, now_ms: int) -> Pending:
    """A time that has come, for a trigger that goes by time."""
    at_ms = occurrence_ms(trigger, due_ms, now_ms)
    key = f"trigger/{session_id}/{trigger.name}/{at_ms}"
    # An hour that comes again because a clock was set back holds the times of the clock once, but intervals go on.
    key = key if isinstance(trigger, CronTrigger) else f"{key}/{revision}"
    return Pending(due_ms=due_ms, key=key, prompt=said(trigger.prompt, time_ms=at_ms))


def pending_files(
    trigger: FileTrigger, session_id: str, seen: Seen, found: Sequence[File], revision: int, now_ms: int
) -> Pending | None:
    """For files that are new or have changed, oldest first, as many as one turn is told of; None: there is none."""
    known = set(unpacked(seen.marks))
    fresh = sorted((file for file in found if file.mark not in known), key=lambda file: (file.changed_ns, file.shown))
    if not fresh:
        return None
    told = fresh[:FILES_PER_TURN]
    still = known.intersection(file.mark for file in found)
    return Pending(
        due_ms=now_ms,
        key=f"trigger/{session_id}/{trigger.name}/{now_ms}/{revision}",
        prompt=said(trigger.prompt, time_ms=now_ms, files=[file.shown for file in told]),
        marks=packed({*still, *(file.mark for file in told)}),
    )


def said(prompt: str, *, time_ms: int = 0, files: Sequence[str] = (), body: str = "") -> str:
    """The prompt with its places filled, once: what is put in is not looked at again."""
    values = {"time": rfc3339(time_ms), "files": "\n".join(map(_on_one_line, files)), "body": body}
    return _PLACES.sub(lambda place: values[place[1]], prompt)


def _on_one_line(name: str) -> str:
    """A name with line breaks or other control characters is shown as a JSON string."""
    return name if name.isprintable() else json.dumps(name)


def mark_of(*parts: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(errors="surrogateescape"), digest_size=MARK_BYTES).digest()


def packed(marks: set[bytes]) -> str:
    return b64encode(b"".join(sorted(marks))).decode()


def unpacked(text: str) -> list[bytes]:
    whole = b64decode(text)
    return [whole[at : at + MARK_BYTES] for at in range(0, len(whole), MARK_BYTES)]


# --- what is kept ----------------------------------------------------------------------------------------------------


def written(seen: Seen) -> str:
    return _encode(seen).decode()


def kept(old: Trigger, new: Trigger, seen: Seen) -> Seen:
    """What a trigger that is changed still remembers: which files it has handled, if it watches the same."""
    same = isinstance(old, FileTrigger) and isinstance(new, FileTrigger) and old.path == new.path
    return msgspec.structs.replace(seen, error="") if same else Seen(fired_ms=seen.fired_ms)
