"""Problem documents."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from adjourn import errors
from adjourn.errors import AdjournError, StorageFull, TooBusy, Unauthenticated, Unavailable
from adjourn.http.problems import TYPE_PREFIX, headers_of, problem

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AdjournError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_a_problem(kind: type[AdjournError]) -> None:
    """RFC 9457: type, title, status and detail, and the code that clients match on."""
    document = msgspec.json.decode(msgspec.json.encode(problem(kind("fact; remedy", path="a.b"))))
    assert document["type"] == TYPE_PREFIX + kind.code
    assert (document["status"], document["code"], document["detail"]) == (kind.status, kind.code, "fact; remedy")
    assert document["title"]
    assert document["path"] == "a.b"


def test_what_may_be_tried_again_says_when() -> None:
    """Retry-After is in whole seconds, rounded up, never 0; 401 says how to authenticate."""
    assert headers_of(TooBusy("x; y", retry_after_ms=1))["retry-after"] == "1"
    assert headers_of(Unavailable("x; y", retry_after_ms=2001))["retry-after"] == "3"
    assert headers_of(StorageFull("x; y"))["retry-after"] == "1"
    assert headers_of(Unauthenticated("x; y"))["www-authenticate"].startswith("Bearer")
    assert headers_of(AdjournError("x; y")) == {}
