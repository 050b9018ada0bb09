"""What both clients take for an address, a key, a refusal and a wait."""

from __future__ import annotations

import inspect
import json
import re
import socket
import subprocess
import sys
import threading
from email.utils import formatdate
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn import errors, sdk
from adjourn.errors import AdjournError, ConfigInvalid, Unavailable
from adjourn.sdk import AsyncClient, Client
from adjourn.sdk import _client as rules
from tests import documented
from tests.sdk.scripted import answer, html, problem, scripted, sent
from tests.sdk.talking import KEY, Talk, refused, send

# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        errors.BodyInvalid,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.BodyTooLarge,
        errors.MediaTypeUnsupported,
        errors.EventConflict,
        errors.Fenced,
    ],
)
def test_a_refusal_is_its_class(talk: Talk, kind: type[AdjournError]) -> None:
    """What will not pass is asked once, and raises the error's own class with the server's words and path."""
    with scripted(problem(kind.status, kind.code, "it is so; do this", path="usage.model")) as server:
        error = refused(talk, send(), server.url)
    assert (type(error), error.message, error.path) == (kind, "it is so; do this", "usage.model")
    assert len(server.asked) == 1


def test_a_proxy_that_refuses_is_named(talk: Talk) -> None:
    """A 413 with a page of HTML is BodyTooLarge, and says that it did not come from Adjourn."""
    with scripted(html(413, "413 Request Entity Too Large")) as server:
        error = refused(talk, send(), server.url)
    assert isinstance(error, errors.BodyTooLarge)
    for part in ("text/html '413 Request Entity Too Large'", "not Adjourn's", "send fewer events at once", server.url):
        assert part in error.message


@pytest.mark.parametrize(
    "reply",
    [
        html(200, "Sign in"),
        answer(202, b"<html>", kind="application/json"),
        answer(202, {"results": [{"status": "maybe"}]}),
        answer(200, b"", kind="text/plain"),
    ],
)
def test_what_is_not_adjourn_is_never_success(talk: Talk, reply: bytes) -> None:
    """A success with a page, broken JSON or an unknown status is an error that names the address, and final."""
    with scripted(reply) as server:
        error = refused(talk, send(), server.url)
    assert isinstance(error, Unavailable)
    assert f"what answers at {server.url} is not Adjourn" in error.message
    assert "check ADJOURN_URL" in error.message
    assert len(server.asked) == 1


def test_an_unknown_code_keeps_its_status(talk: Talk) -> None:
    """A code of a newer server falls back on the status; a 500 is the root of all errors. Neither is tried again."""
    with scripted(problem(403, "moon_phase", "not tonight"), problem(500, "", "")) as server:
        error = refused(talk, send(), server.url)
        assert (type(error), error.message) == (errors.Forbidden, "not tonight")
        assert type(refused(talk, send(), server.url)) is AdjournError
    assert len(server.asked) == 2


def test_redirects_are_not_followed(talk: Talk) -> None:
    """A redirect is reported, not followed: the key would go with it."""
    with scripted(sent("accepted")) as elsewhere, scripted(answer(307, b"", f"Location: {elsewhere.url}/x")) as server:
        error = refused(talk, send(), server.url)
    assert f"points to {elsewhere.url}/x" in error.message
    assert elsewhere.asked == []


def test_nothing_listens(talk: Talk) -> None:
    """Where nothing listens, the error says so, and how to start it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = refused(talk, send(), url, retries=0)
    assert isinstance(error, Unavailable)
    assert error.message.startswith(f"nothing answers at {url} (")
    assert error.message.endswith("; start it with: adjourn serve, or check ADJOURN_URL")


def test_https_where_http_is_spoken(talk: Talk) -> None:
    """https to a server without TLS is told apart from no server at all."""
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve() -> None:
            with plain.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{plain.getsockname()[1]}"
        error = refused(talk, send(), url, retries=0)
        thread.join()
    assert error.message.startswith(f"no TLS connection to {url} (")
    assert error.message.endswith("whether the server speaks https")


# --- the key and the address ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:8700", "has no scheme"),
        ("localhost:8700", "has no scheme"),
        ("", "has no scheme"),
        ("ftp://host", "has the scheme 'ftp'"),
        ("http://", "has no host"),
        ("http://a b", "or a space"),
        ("http://host:port", "cannot be read"),
        ("http://host:99999", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://host/?token=hunter2", "goes on after the path"),
        ("http://me:hunter2@host", "holds a user or password"),
        ("me:hunter2@host:8700", "has no scheme"),
    ],
)
def test_a_bad_address_is_refused_at_once(talk: Talk, url: str, says: str) -> None:
    """An address without scheme or host, or with secrets in it, is a ConfigInvalid that shows no secret."""
    error = refused(talk, send(), url)
    assert isinstance(error, ConfigInvalid)
    assert error.path == "url"
    assert says in error.message
    assert "hunter2" not in error.message


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8700", "http://localhost", "https://[::1]:8700/x", "http://127.9.9.9"]
)
def test_the_loopback_needs_no_proxy(url: str) -> None:
    """Addresses of this machine itself are known, and others are not taken for them."""
    assert rules.server_of(url, None).is_loopback
    assert not rules.server_of("http://localhost.example", None).is_loopback


def test_a_host_that_is_no_name(talk: Talk) -> None:
    """A host that only the resolver's own rules refuse is a ConfigInvalid too."""
    assert isinstance(refused(talk, send(), "http://\N{SNOWMAN}_\N{SNOWMAN}.example"), ConfigInvalid)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}ü", f"{KEY}\r\nX-Evil: 1"])
def test_a_bad_key_is_refused_unseen(talk: Talk, key: str) -> None:
    """A key with white space or letters beyond ASCII is refused, and not shown."""
    with pytest.raises(ConfigInvalid) as caught:
        talk(send(), "http://127.0.0.1:9", key=key)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout_ms": 0}, {"retries": -1}])
def test_bad_options_are_refused(talk: Talk, options: dict[str, int]) -> None:
    """A time of nothing and a negative number of retries are refused by name."""
    assert refused(talk, send(), "http://h", **options).path in options


def test_the_key_is_never_shown() -> None:
    """Neither repr nor anything that the client keeps shows the key."""
    for client in (Client("http://127.0.0.1:9", KEY), AsyncClient("http://127.0.0.1:9", KEY)):
        assert repr(client) == f"{type(client).__name__}('http://127.0.0.1:9')"
        assert KEY not in repr(vars(client))


@pytest.mark.parametrize(
    "reply", [html(502, f"You sent Bearer {KEY}"), problem(401, "unauthenticated", f"{KEY} is unknown; make one")]
)
def test_an_echoed_key_is_hidden(talk: Talk, reply: bytes) -> None:
    """A server or proxy that echoes the key does not get it into an error."""
    with scripted(reply) as server:
        assert "***" in refused(talk, send(), server.url, retries=0).message


def test_a_path_prefix_is_kept(talk: Talk) -> None:
    """A server behind a prefix is reached under it, with or without a slash at its end; without a key none is sent."""
    with scripted(sent("accepted")) as server:
        talk(send(), f"{server.url}/adjourn/", key=None)
        talk(send(), f"{server.url}/adjourn", key=None)
    assert [asked.target for asked in server.asked] == ["/adjourn/v1/events"] * 2
    assert all("authorization" not in asked.headers for asked in server.asked)


# --- the rules --------------------------------------------------------------------------------------------------------


@given(
    attempt=st.integers(1, 10_000), draw=st.floats(0, 1, exclude_max=True), asked=st.none() | st.integers(-5, 10**12)
)
def test_the_wait_is_bounded(attempt: int, draw: float, asked: int | None) -> None:
    """A wait is never negative, never shorter than what the server asked for up to a minute, and never endless."""
    wait = rules.retry_delay_ms(attempt, draw, asked)
    at_least = min(max(asked or 0, 0), rules.RETRY_AFTER_MS_MAX)
    assert at_least <= wait <= at_least + rules.RETRY_MS_MAX


def test_the_wait_doubles() -> None:
    """The bounds of the jitter double with each try, up to the longest."""
    assert [rules.retry_delay_ms(n, 0.5) for n in (1, 2, 5, 6, 99)] == [75, 150, 1200, 1500, 1500]


def test_a_server_that_starts_again_is_not_given_up() -> None:
    """Whatever is drawn, the tries of one call are spread over eleven seconds or more: enough for a restart."""
    waits = [rules.retry_delay_ms(n, 0.0) for n in range(1, rules.RETRIES + 1)]
    assert sum(waits) >= 11_000


NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("value", "date", "wait_ms"),
    [
        ("0", "", 0),
        (" 120 ", "", 120_000),
        (formatdate(NOW_MS / 1000 + 30, usegmt=True), "", 30_000),
        (formatdate(NOW_MS / 1000 + 30, usegmt=True), formatdate(NOW_MS / 1000 + 25, usegmt=True), 5000),
        (formatdate(NOW_MS / 1000 - 30, usegmt=True), "", 0),
        ("-1", "", None),
        ("1.5", "", None),
        ("soon", "", None),
        ("9" * 400, "", None),
        ("", "", None),
    ],
)
def test_retry_after(value: str, date: str, wait_ms: int | None) -> None:
    """Seconds or a date, by the server's own clock where it tells it; what is neither is no wish."""
    assert rules.parse_retry_after(value, date, NOW_MS) == wait_ms


@given(st.text(), st.text())
def test_any_header_is_survived(value: str, date: str) -> None:
    """No header of a hostile server raises."""
    wait = rules.parse_retry_after(value, date, NOW_MS)
    assert wait is None or wait >= 0


@given(st.integers(100, 599), st.binary(max_size=200), st.sampled_from(["application/json", "text/html", ""]))
def test_any_refusal_is_an_error_with_words(status: int, body: bytes, kind: str) -> None:
    """Whatever is answered other than 2xx becomes an AdjournError with a fact and a remedy."""
    server = rules.server_of("http://h", KEY)
    error = rules.refusal(server, rules.Answer(status, {"content-type": kind}, body), NOW_MS)
    assert "; " in error.message or "detail" in body.decode("latin-1")


def test_every_code_is_known() -> None:
    """Each error of the tree is raised as its own class when a server names its code."""
    for cls in (cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, AdjournError)):
        body = json.dumps({"code": cls.code, "detail": "fact; remedy"}).encode()
        told = rules.Answer(cls.status, {"content-type": "application/problem+json"}, body)
        assert type(rules.refusal(rules.server_of("http://h", None), told, NOW_MS)) is cls


def test_importing_it_does_not_import_httpx() -> None:
    """httpx is imported with the first client, not with the package."""
    program = "import sys, adjourn.sdk as sdk\nprint('httpx' in sys.modules)\n"
    program += "sdk.Client('http://h')\nprint('httpx' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def call_of(method: str, kind: type = Client) -> str:
    """`send(events, *, producer='', first_sequence=0)`"""
    signature = inspect.signature(getattr(kind, method))
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name != "self"]
    return f"{method}{signature.replace(parameters=bare, return_annotation=signature.empty)}"


def test_what_is_public_is_documented() -> None:
    """docs/reference/sdk.md names every public type, every method and parameter, and the numbers of the code."""
    page = (documented.REFERENCE / "sdk.md").read_text(encoding="utf-8")
    names = documented.documented_names("sdk.md")
    assert {*sdk.__all__, *inspect.signature(Client).parameters} <= names
    methods = {call_of(name) for name in vars(Client) if not name.startswith("_")}
    assert {call.replace('"', "'") for call in documented.documented_names("sdk.md", section="Methods")} == methods
    hosted = documented.documented_rows("sdk.md", section="Hosted sessions")
    methods = {call_of(name, sdk.Sessions).replace('"', "'") for name in vars(sdk.Sessions) if not name.startswith("_")}
    assert methods <= hosted.keys()
    types = documented.documented_rows("sdk.md", section="What comes back")
    types |= {name: hosted[name] for name in hosted if hasattr(getattr(sdk, name, None), "__struct_fields__")}
    for name in types.keys() - {"EventStatus"}:
        assert set(getattr(sdk, name).__struct_fields__) <= set(re.findall(r"`(\w+)`", types[name][1])), name
    assert set(get_args(sdk.EventStatus)) <= set(re.findall(r"`(\w+)`", types["EventStatus"][1]))
    assert f"| `retries` | {rules.RETRIES} |" in page
    assert f"from {rules.COMPRESS_BYTES_MIN:,} bytes on" in page
    assert all(str(status) in page for status in rules.RETRIED_STATUSES)
