"""Server-sent events as bytes (the HTML standard, 9.2.5). Pure."""

from __future__ import annotations

MEDIA_TYPE = "text/event-stream"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Whoever stands between must keep nothing and hold nothing back."""


def message(data: bytes, *, id: str, event: str = "") -> bytes:
    """`data` is JSON: line breaks can stand only between its tokens, where a space is as good."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    name = f"event: {event}\n" if event else ""
    return b"%bid: %b\ndata: %b\n\n" % (name.encode(), id.encode(), data)


def mark(id: str, comment: str = "") -> bytes:
    """Nothing for the program that listens; its next `Last-Event-ID` is this one, even if no message came."""
    return f": {comment}\nid: {id}\n\n".encode() if comment else f"id: {id}\n\n".encode()


def retry(after_ms: int, comment: str) -> bytes:
    """The connection is about to end; come back after so long."""
    return f": {comment}\nretry: {after_ms}\n\n".encode()
