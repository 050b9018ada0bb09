"""What of a request goes on to the upstream, what of its answer comes back, and what cannot pass at all. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from adjourn.errors import ProtocolUnsupported, TargetInvalid

Headers = Sequence[tuple[bytes, bytes]]

OWN_HEADERS = b"x-adjourn-"
"""What begins so is for the gateway, and goes no further."""

_HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    *(b"proxy-authenticate", b"proxy-authorization", b"expect", b"host"),
}
_HOP_BY_HOP_BACK = _HOP_BY_HOP - {b"expect", b"host"}
_DECODED_MAX = 4


def check_passable(raw_path: bytes, headers: Headers, prefix: str) -> None:
    """`prefix`: the path of --upstream. Raises TargetInvalid and ProtocolUnsupported."""
    if not raw_path.startswith(b"/"):
        raise TargetInvalid(
            f"the target {raw_path[:100].decode('latin-1')!r} is no path; name one of the upstream's, "
            "as in OPTIONS /v1/models",
            path="target",
        )
    if prefix and leads_out(raw_path):
        raise TargetInvalid(
            f"the path leads out of {prefix}, below which the gateway stands; send it without '..'", path="target"
        )
    for name, value in headers:
        if name == b"sec-websocket-key":  # `Upgrade` itself was taken out, as a server may that ignores it
            raise ProtocolUnsupported(
                "the gateway does not pass WebSockets on; connect to the model's API itself for them, or use one over "
                "HTTP",
                path="upgrade",
            )
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise ProtocolUnsupported(
                f"the transfer encoding {value[:100].decode('latin-1')!r} is not passed on; send 'chunked', and say "
                "in Content-Encoding how the body is compressed",
                path="transfer-encoding",
            )


def leads_out(raw_path: bytes) -> bool:
    """Whether `..` goes above where the path begins, for anybody who reads it: however often it is encoded, with
    backslashes for slashes, with parameters behind the dots, and with empty segments merged."""
    if b".." not in raw_path and b"%" not in raw_path:
        return False
    path = raw_path.decode("latin-1")
    for _ in range(_DECODED_MAX):
        if _climbs(path):
            return True
        if (path := unquote(before := path, "latin-1")) == before:
            break
    return False


def _climbs(path: str) -> bool:
    depth = 0
    for segment in path.replace("\\", "/").split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            depth -= 1
        elif name not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False


def headers_on(given: Headers) -> list[tuple[str, str]]:
    """Those of a request that go on to the upstream."""
    dropped = _dropped(given, _HOP_BY_HOP)
    return [
        (name.decode("latin-1"), _text(value))
        for name, value in given
        if name not in dropped and not name.startswith(OWN_HEADERS)
    ]


def headers_back(given: Headers, status: int) -> list[tuple[bytes, bytes]]:
    """Those of an answer that go back to the client."""
    lower = [(name.lower(), value) for name, value in given]
    dropped = _dropped(lower, _HOP_BY_HOP_BACK)
    if status == 304:  # the length of what is not sent: the server would wait for it
        dropped = dropped | {b"content-length"}
    return [(name, value) for name, value in lower if name not in dropped]


def _dropped(given: Headers, always: set[bytes]) -> set[bytes]:
    """Those of one connection only: named by the standard, or by the sender (RFC 9110, 7.6.1)."""
    named = [value for name, value in given if name == b"connection"]
    return always | {token.strip().lower() for value in named for token in value.split(b",")} if named else always


def _text(value: bytes) -> str:
    """As aiohttp turns it into the same bytes again: it writes UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
