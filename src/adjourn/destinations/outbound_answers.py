"""What an HTTP answer means for the events that were sent. Pure.

| answer | meaning |
| --- | --- |
| 2xx, 409 | taken; 409 says that it was taken before |
| 410 | an outage for good: the receiver wants no more |
| 3xx | an outage: redirects are never followed |
| 401–407, 411, 415, 421, 426, 431, 451 | an outage: the settings or the account, not the event |
| 408, 425, 429, 502, 503, 504, 507, 52x, 53x | an outage: it is away or asks to slow down |
| any other 4xx | the event is refused for good |
| any other 5xx, 1xx | the event is refused for now: the receiver failed, perhaps because of it |
"""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec

from adjourn.destination import Refusal
from adjourn.errors import DestinationOutage
from adjourn.secret import mask

RETRY_AFTER_MS_MAX = 24 * 3_600_000
EXCERPT_CHARACTERS = 200

_BUSY = frozenset({408, 425, 429, 502, 503, 504, 507, *range(520, 540)})
_BEHIND_A_PROXY = frozenset({502, 504})
"""What a proxy says of a receiver that broke or hung, perhaps over the event."""
_REMEDIES = {
    401: "give credentials that it takes in headers, or the secret that it verifies with in signing_secrets",
    402: "settle the account that it bills",
    403: "give credentials in headers that may write there, or the secret that it verifies with in signing_secrets",
    404: "correct the url",
    405: "give the url of something that takes POST",
    406: "give the url of something that takes JSON",
    407: "let this machine reach it without a proxy",
    411: "give the url of something that takes plain POST requests",
    415: "give the url of something that takes JSON, or set compression: none",
    421: "correct the host in url",
    426: "give an https:// url",
    431: "shorten the headers",
    451: "ask its operator why it is closed to you",
}


class Answer(msgspec.Struct, frozen=True):
    """`body` is the beginning of the answer's body, as much as the caller of `post` asked for."""

    status: int
    body: bytes = b""
    retry_after: str = ""
    date: str = ""


Verdict = Refusal | DestinationOutage | None


def judge(where: str, answer: Answer, now_ms: int) -> Verdict:
    """None: taken. `where` names the destination and its host in messages. A refusal's index is 0."""
    status = answer.status
    if 200 <= status < 300 or status == 409:
        return None
    fact = f"{where} answered {status}{excerpt(answer.body)}"
    if status == 410:
        return DestinationOutage(f"{fact}: it wants no more events; disable it, or correct the url", gone=True)
    if 300 <= status < 400:
        return DestinationOutage(f"{fact}, a redirect, which is never followed; give the final address as url")
    wait_ms = retry_after_ms(answer, now_ms)
    if status in _BUSY:
        remedy = "it is away or asks to slow down; its events wait"
        return DestinationOutage(f"{fact}; {remedy}", retry_after_ms=wait_ms, answered=status in _BEHIND_A_PROXY)
    if status in _REMEDIES:
        return DestinationOutage(f"{fact}; {_REMEDIES[status]}", retry_after_ms=wait_ms)
    if 400 <= status < 500:
        remedy = "lower payload_bytes_max" if status == 413 else "correct the event or the receiver, and redrive it"
        return Refusal(index=0, code=f"http_{status}", reason=f"{fact}; {remedy}")
    return Refusal(
        index=0, code=f"http_{status}", reason=f"{fact}; look at the receiver's log: it is tried again", permanent=False
    )


def excerpt(body: bytes) -> str:
    """` ('no such tenant')`: the beginning of an answer on one line, nothing that looks secret in it; or nothing."""
    text = mask(body[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace"))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:EXCERPT_CHARACTERS]
    return f" ({text!r})" if text else ""


def retry_after_ms(answer: Answer, now_ms: int) -> int | None:
    """Of both forms, seconds and date; at most a day. A date is compared with the answer's own `Date`, if it has one:
    the receiver's clock may be wrong."""
    text = answer.retry_after.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        wait_ms = int(text[:12]) * 1000
    else:
        until = _moment_ms(text)
        if until is None:
            return None
        now = _moment_ms(answer.date)
        wait_ms = until - (now_ms if now is None else now)
    return min(wait_ms, RETRY_AFTER_MS_MAX) if wait_ms > 0 else None


def _moment_ms(text: str) -> int | None:
    try:
        moment: datetime = parsedate_to_datetime(text)
        return int(moment.timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
