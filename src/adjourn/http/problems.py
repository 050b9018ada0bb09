"""Errors as RFC 9457 problems: fact, remedy, type, offending path."""

from __future__ import annotations

import msgspec

from adjourn.errors import AdjournError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "https://adjourn.dev/errors/"


class ProblemDetails(msgspec.Struct, omit_defaults=True):
    """The body of every answer from 400 on."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    path: str = ""
    retry_after_ms: int | None = None


def problem(error: AdjournError) -> ProblemDetails:
    return ProblemDetails(
        type=TYPE_PREFIX + error.code,
        title=error.code.replace("_", " "),
        status=error.status,
        detail=error.message,
        code=error.code,
        path=error.path,
        retry_after_ms=error.retry_after_ms,
    )


def headers_of(error: AdjournError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="adjourn"'
    if error.status == 426:
        headers["upgrade"] = "websocket"  # RFC 9110, 15.5.22
    if error.status in (429, 503, 507):
        headers["retry-after"] = str(max(1, -(-(error.retry_after_ms or 1000) // 1000)))
    return headers
