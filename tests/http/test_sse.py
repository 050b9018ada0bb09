"""Server-sent events, byte by byte."""

from __future__ import annotations

from adjourn.http import sse


def test_a_message_has_its_id_before_its_data() -> None:
    """One block, ended by an empty line; a name only where it is not an ordinary message."""
    assert sse.message(b'{"a":1}', id="1-2") == b'id: 1-2\ndata: {"a":1}\n\n'
    assert sse.message(b"{}", id="3", event="gap") == b"event: gap\nid: 3\ndata: {}\n\n"


def test_line_breaks_between_tokens_do_not_end_the_data() -> None:
    """An event that was sent over several lines is one line of data, with the same value."""
    assert sse.message(b'{\r\n"a":\r1}', id="1") == b'id: 1\ndata: {  "a": 1}\n\n'


def test_a_mark_moves_the_id_and_says_nothing() -> None:
    """A block without data is no message; the client keeps its id."""
    assert sse.mark("7") == b"id: 7\n\n"
    assert sse.mark("7", "heartbeat") == b": heartbeat\nid: 7\n\n"
    assert sse.retry(2000, "stopping") == b": stopping\nretry: 2000\n\n"
