"""What raw ASGI handlers share: the types of its messages, a request's headers, and whole answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from adjourn.errors import AdjournError
from adjourn.eventlog import get_logger
from adjourn.http.problems import MEDIA_TYPE, headers_of, problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Fields = Sequence[tuple[bytes, bytes]]

DEFECT = "something in Adjourn failed; the server's log has the trace: please report it"

_log = get_logger("adjourn.http")


class Headers(Mapping[str, str]):
    """The request's headers, decoded when asked for: most never are."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name.encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def told(error: Exception, path: str) -> AdjournError:
    """What the sender hears of the error that is being handled."""
    if not isinstance(error, AdjournError):
        _log.exception("request_failed", path=path)
        return AdjournError(DEFECT)
    if error.status >= 500:
        _log.warning("request_refused", code=error.code, detail=error.message)
    return error


async def refuse(send: Send, error: AdjournError, headers: Fields = ()) -> None:
    body = msgspec.json.encode(problem(error))
    await respond(send, error.status, MEDIA_TYPE.encode(), body, [*fields_of(error), *headers])


def fields_of(error: AdjournError) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that tells of `error`."""
    return [(name.encode(), value.encode()) for name, value in headers_of(error).items()]


async def respond(send: Send, status: int, content_type: bytes, body: bytes, extra: Fields = ()) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
