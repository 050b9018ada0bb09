"""What the faults do that stand beyond a destination: traps, names that flip, and answers that are half the truth."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

import httpx

from adjourn.testing.unreliable import ERROR_BODY, Trap, Trouble, UnreliableNames, UnreliableReceiver, UnreliableWay


def _ids_of(body: bytes) -> Sequence[str]:
    return body.decode().split()


def _post(url: str, body: bytes = b"a b c d") -> httpx.Response:
    return httpx.post(url, content=body, timeout=20, trust_env=False)


def _troubled(trouble: Trouble) -> UnreliableReceiver:
    receiver = UnreliableReceiver(random.Random(1), _ids_of, lambda one: "bad" if one == "b" else "fine")
    receiver.trouble("/in", [trouble])
    return receiver


def test_a_trap_counts_who_connects() -> None:
    """Each connection is counted once, whether or not anything was sent."""
    trap = Trap()
    assert trap.connections() == 0
    for _ in range(3):
        socket.create_connection(("127.0.0.1", trap.port), 20).close()
    assert (trap.connections(), trap.connections()) == (3, 0)
    trap.close()


def test_a_redirect_leads_where_it_is_told_to() -> None:
    """Whoever follows it is caught; who does not is not."""
    trap = Trap()
    receiver = UnreliableReceiver(random.Random(1), _ids_of, redirect_to=trap.url)
    receiver.trouble("/in", ["redirect"])
    with receiver:
        answer = _post(receiver.url("/in"))
    assert (answer.status_code, answer.headers["location"], trap.connections()) == (302, trap.url, 0)
    trap.close()


def test_half_is_taken_and_said_to_have_failed() -> None:
    """The first half is kept, but nothing from an event on that is refused; what is refused is said, too."""
    with _troubled("half") as receiver:
        assert _post(receiver.url("/in"), b"a c d e").status_code == 503
        assert receiver.acknowledged("/in") == ["a", "c"]
        assert _post(receiver.url("/in"), b"f b g h i j").status_code == 400
        assert receiver.acknowledged("/in") == ["a", "c", "f"]


def test_a_lie_is_on_record() -> None:
    """A success that keeps nothing, in the receiver's words or not, is known as a lie afterwards."""
    with _troubled("error_body") as receiver:
        answer = _post(receiver.url("/in"), b"a")
        assert (answer.status_code, answer.content) == (200, ERROR_BODY)
        assert receiver.lied("/in") == {"a"}


def test_a_way_hands_on_what_comes_through() -> None:
    """Calm: all of it, with the other's answer. Half: the first lines, and a failure. A lie: nothing at all."""
    with UnreliableReceiver(random.Random(1), _ids_of) as behind:
        with UnreliableWay(random.Random(1), f"http://127.0.0.1:{behind.port}") as way:
            assert _post(way.url("/in"), b"a\nb\n").status_code == 200
            assert behind.acknowledged("/in") == ["a", "b"]
            for path, trouble, status, there in (("/half", "half", 503, ["c"]), ("/lie", "lie", 200, [])):
                way.trouble(path, [trouble])  # type: ignore[list-item]  both are troubles
                assert _post(way.url(path), b"c\nd\n").status_code == status
                assert behind.acknowledged(path) == there


def test_names_flip_while_they_are_installed() -> None:
    """Each look-up may give another address, or fail; other names, and all afterwards, are the system's."""
    names = UnreliableNames(random.Random(1), {"flips.example": ("127.0.0.1", "127.0.0.2", "")})
    before = socket.getaddrinfo
    names.install()
    try:
        found = {_address("flips.example") for _ in range(100)}
        assert _address("127.0.0.3") == "127.0.0.3"
    finally:
        names.uninstall()
    assert found == {"127.0.0.1", "127.0.0.2", ""}
    assert socket.getaddrinfo == before


def _address(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, 80)[0][4][0])
    except socket.gaierror:
        return ""
