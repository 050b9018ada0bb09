"""What both clients share: what a request looks like, what an answer means, and how long to wait. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from adjourn import errors
from adjourn.errors import AdjournError, BodyInvalid, ConfigInvalid, EventInvalid, Unavailable
from adjourn.sdk.models import ProblemAnswer, SendAnswer
from adjourn.secret import Secret, mask
from adjourn.typed import decoder
from adjourn.version import __version__

T = TypeVar("T")

RETRIES = 15
"""With the waits between them, a server that is back within eleven seconds is not given up."""
RETRIED_STATUSES = frozenset({429, 502, 503, 504, 507})
RETRY_MS_FIRST = 100
RETRY_MS_MAX = 2_000
RETRY_AFTER_MS_MAX = 60_000
"""However long a server asks to wait, it is tried again after this."""
COMPRESS_BYTES_MIN = 1024
"""Below this, a body fits into one packet as it is."""
PRODUCER_LENGTH_MAX = 128
SEQUENCE_MAX = 2**53
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Server:
    """Where to send, and with which key; neither repr nor any message shows the key."""

    url: str
    """Scheme, host, port and path prefix, without a slash at the end."""
    key: Secret | None

    @property
    def is_loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def headers(self) -> dict[str, str]:
        headers = {"accept": "application/json", "user-agent": f"adjourn-python/{__version__}"}
        return headers if self.key is None else {**headers, "authorization": f"Bearer {self.key.reveal()}"}

    def hide(self, text: str) -> str:
        """`text` without the key: what stands between may echo a request's headers."""
        return text if self.key is None else text.replace(self.key.reveal(), "***")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    query: Mapping[str, str | int | Sequence[str]] | None = None


Again = Literal["always", "undone", "never"]
"""Whether a request may be sent again: `undone`, where it is certain that it was not done."""


@dataclass
class Tries:
    """Of one request. `unsure`: one of them may have been done without an answer."""

    count: int = 0
    unsure: bool = False


@dataclass(frozen=True)
class Answer:
    """`headers` are looked up by lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_json(self) -> bool:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind == "application/json" or kind.endswith("+json")


def is_stream(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


# --- where to ---------------------------------------------------------------------------------------------------------


def server_of(url: str, key: str | None) -> Server:
    """Raises ConfigInvalid, which never shows a password or the key."""
    # What is before an @, or behind a question mark, may be secret, also where the rest is no URL.
    shown = repr(re.split(r"[?#]", url.rpartition("@")[2])[0][:200])
    example = "give it as http://127.0.0.1:8700 or https://host"
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url):
        raise bad_url(f"the server's URL {shown} has no scheme; {example}")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise bad_url(f"the server's URL {shown} cannot be read: look at host and port; {example}") from None
    if parts.scheme not in ("http", "https"):
        raise bad_url(f"the server's URL {shown} has the scheme {parts.scheme!r}; {example}")
    if not parts.hostname or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise bad_url(f"the server's URL {shown} has no host, or a space in it; {example}")
    if parts.username is not None or parts.password is not None:
        # It would take the place of the key in the Authorization header.
        raise bad_url("the server's URL holds a user or password; take it out, and give the API key as `key`")
    if parts.query or parts.fragment:
        raise bad_url(f"the server's URL {shown} goes on after the path; {example}")
    return Server(url.rstrip("/?#"), _key(key))


def bad_url(message: str) -> ConfigInvalid:
    return ConfigInvalid(message, path="url")


def _key(key: str | None) -> Secret | None:
    if not key:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigInvalid(
            "the key holds a space, a line break or a character beyond ASCII; give it as it was shown: adj_…",
            path="key",
        )
    return Secret(key, "key")


def check_options(timeout_ms: int, retries: int | None) -> None:
    """Raises ConfigInvalid."""
    if timeout_ms < 1:
        raise ConfigInvalid(f"timeout_ms is {timeout_ms}; give at least 1", path="timeout_ms")
    if retries is not None and retries < 0:
        raise ConfigInvalid(f"retries is {retries}; give 0 for one try, or None to try until answered", path="retries")


# --- what to ask ------------------------------------------------------------------------------------------------------


def send_request(events: Sequence[bytes], *, producer: str, first_sequence: int, compress: bool) -> Request:
    """Raises EventInvalid, BodyInvalid."""
    for index, event in enumerate(events):
        # Either would shift the results against the events.
        if b"\n" in event:
            raise EventInvalid(f"event {index} contains a raw newline; encode it compactly, on one line")
        if not event.strip():
            raise EventInvalid(f"event {index} is empty; send a JSON object")
    headers = {"content-type": NDJSON, **_producer_headers(producer, first_sequence)}
    body = b"\n".join(events) + b"\n"
    if compress and len(body) >= COMPRESS_BYTES_MIN:
        import zstandard

        # A compressor of its own, which releases the interpreter lock: threads share a client, but no compressor.
        body = zstandard.ZstdCompressor().compress(body)
        headers["content-encoding"] = "zstd"
    return Request("POST", "/v1/events", headers, body)


def _producer_headers(producer: str, first_sequence: int) -> dict[str, str]:
    if not producer:
        if first_sequence:
            raise BodyInvalid("first_sequence numbers the events of a producer; give producer too", path="producer")
        return {}
    if len(producer) > PRODUCER_LENGTH_MAX or not re.fullmatch(r"[\x21-\x7e]+", producer):
        raise BodyInvalid(
            f"producer must be 1 to {PRODUCER_LENGTH_MAX} ASCII characters without spaces", path="producer"
        )
    if not 0 < first_sequence < SEQUENCE_MAX:
        raise BodyInvalid("a producer numbers its events from 1; give first_sequence", path="first_sequence")
    return {"adjourn-producer": producer, "adjourn-sequence": str(first_sequence)}


def event_path(event_id: str) -> str:
    # An id may be `..`, which would be taken for a step up.
    return f"/v1/events/{quote(event_id, safe='').replace('.', '%2E')}"


def with_headers(request: Request, headers: Mapping[str, str]) -> Request:
    return replace(request, headers={**request.headers, **headers})


# --- what the answer means --------------------------------------------------------------------------------------------


def decode(server: Server, answer: Answer, kind: type[T]) -> T:
    """Raises Unavailable where the answer is not one of Adjourn's."""
    if not answer.is_json:
        raise _not_adjourn(server, answer, _described(answer))
    try:
        return decoder(kind).decode(answer.body)
    except msgspec.DecodeError as error:
        raise _not_adjourn(server, answer, f"JSON of another form: {error}") from None


def no_stream(server: Server, answer: Answer) -> Unavailable:
    """A success, where server-sent events were asked for."""
    return _not_adjourn(server, answer, _described(answer))


def no_event(server: Server, reason: str) -> Unavailable:
    fact = f"what {server.url} streams are events of another form ({reason})"
    return Unavailable(server.hide(f"{fact}; see whether it is Adjourn, and of which version"), path="url")


def decode_sent(server: Server, answer: Answer, count: int) -> SendAnswer:
    sent = decode(server, answer, SendAnswer)
    if len(sent.results) != count:
        raise _not_adjourn(server, answer, f"{len(sent.results)} results for {count} events")
    return sent


def refusal(server: Server, answer: Answer, now_ms: int) -> AdjournError:
    """The error that an answer other than 2xx stands for: by its code, else by its status."""
    if 300 <= answer.status < 400:
        place = mask(answer.headers.get("location", "elsewhere"))
        text = f"{server.url} answers {answer.status} and points to {place}; give the address that it points to"
        return Unavailable(server.hide(text), path="url")
    problem = _problem(answer)
    retry_after_ms = problem.retry_after_ms
    if retry_after_ms is None:
        retry_after_ms = parse_retry_after(
            answer.headers.get("retry-after", ""), answer.headers.get("date", ""), now_ms
        )
    text = problem.detail or problem.title
    if not problem.code:
        remedy = _REMEDIES.get(answer.status, "check ADJOURN_URL, and any proxy on the way")
        said = f": {text}" if text else ""
        text = f"{server.url} answers {answer.status} with {_described(answer)}, which is not Adjourn's{said}; {remedy}"
    kind = _CLASSES_BY_CODE.get(problem.code) or _CLASSES_BY_STATUS.get(answer.status, AdjournError)
    text = text or f"{server.url} answers {answer.status} ({problem.code}); look into the server's log"
    return kind(server.hide(text), path=problem.path, retry_after_ms=retry_after_ms)


def _problem(answer: Answer) -> ProblemAnswer:
    try:
        return decoder(ProblemAnswer).decode(answer.body) if answer.is_json else ProblemAnswer()
    except msgspec.DecodeError:
        return ProblemAnswer()


def _not_adjourn(server: Server, answer: Answer, what: str) -> Unavailable:
    fact = f"what answers at {server.url} is not Adjourn, or of another version: {answer.status} with {what}"
    return Unavailable(server.hide(f"{fact}; check ADJOURN_URL, and any proxy on the way"), path="url")


def _described(answer: Answer) -> str:
    """`text/html '502 Bad Gateway'`: enough to know a proxy by."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()[:100] or "no content type"
    title = re.search(rb"<title[^>]*>\s*([^<]{1,200}?)\s*</title>", answer.body[:65_536], re.IGNORECASE)
    return f"{kind} {title[1].decode('utf-8', 'replace')!r}" if title else kind


_UNSURE_STATUSES = frozenset({502, 504})
"""Of what stands between: the request may have gone on, and been done."""
_CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, AdjournError)]
_CLASSES_BY_CODE = {cls.code: cls for cls in _CLASSES}
_CLASSES_BY_STATUS: dict[int, type[AdjournError]] = {
    400: errors.BodyInvalid,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
    415: errors.MediaTypeUnsupported,
    429: errors.TooBusy,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
    507: errors.StorageFull,
}
_REMEDIES = {413: "send fewer events at once, or raise the proxy's limit"}
"""For answers of what stands between."""


def nothing_answers(server: Server, reason: str) -> Unavailable:
    fact = f"nothing answers at {server.url} ({reason or 'no connection'})"
    remedy = "start it with: adjourn serve, or check ADJOURN_URL"
    if "SSL" in reason or "certificate" in reason:
        fact = f"no TLS connection to {server.url} ({reason})"
        remedy = "check the certificate, and whether the server speaks https"
    return Unavailable(server.hide(f"{fact}; {remedy}"), path="url")


def cut_off(server: Server, retry_ms: int) -> Unavailable:
    fact = f"{server.url} ended the stream before it was over"
    return Unavailable(f"{fact}; see whether it, or a proxy on the way, is stopping", retry_after_ms=retry_ms or None)


class Unanswered(Unavailable):
    """It was sent, and it is not known whether it was done."""


def too_slow(server: Server, timeout_ms: int) -> Unavailable:
    return Unanswered(f"{server.url} did not answer within {timeout_ms} ms; look at its load, or raise timeout_ms")


def broken_off(server: Server, reason: str) -> Unavailable:
    fact = f"the connection to {server.url} broke off before the answer was whole ({reason or 'closed'})"
    return Unanswered(server.hide(f"{fact}; see whether the server, or a proxy on the way, stopped or restarted"))


def is_unsure(error: AdjournError, status: int) -> bool:
    """Whether what was asked for may have been done all the same; `status` is 0 where there is no answer."""
    return isinstance(error, Unanswered) or (status in _UNSURE_STATUSES and not isinstance(error, errors.RunnerFailed))


def may_pass(error: AdjournError, status: int) -> bool:
    """Whether the same request may be answered otherwise later. A runner that fails does so again."""
    return status in RETRIED_STATUSES and not isinstance(error, errors.RunnerFailed)


def given_up(error: AdjournError, tries: int) -> AdjournError:
    """The last of several failures, which says so."""
    if tries == 1:
        return error
    return type(error)(f"{error.message} (tried {tries} times)", path=error.path, retry_after_ms=error.retry_after_ms)


# --- how long to wait -------------------------------------------------------------------------------------------------


def retry_delay_ms(attempt: int, draw: float, retry_after_ms: int | None = None) -> float:
    """Equal jitter: a `draw` from [0, 1) spreads the wait over the upper half of first · 2^(attempt-1); `attempt`
    counts from 1. With full jitter a few short draws would use up all retries before a server has started again.
    What the server asks for comes before it, so that clients that were told the same do not come back together.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015."""
    ceiling = min(RETRY_MS_MAX, RETRY_MS_FIRST * 2 ** min(attempt - 1, 30))
    return min(max(0, retry_after_ms or 0), RETRY_AFTER_MS_MAX) + ceiling * (1 + draw) / 2


def parse_retry_after(value: str, date: str, now_ms: int) -> int | None:
    """RFC 9110 §10.2.3: seconds, or a date, which is taken by the server's own clock (its `Date`) if it tells it."""
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value) * 1000
    until_ms, server_ms = _http_date_ms(value), _http_date_ms(date)
    return None if until_ms is None else max(0, until_ms - (now_ms if server_ms is None else server_ms))


def _http_date_ms(text: str) -> int | None:
    try:
        return round(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
