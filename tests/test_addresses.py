"""Addresses in the settings: what is wrong with one is said, and never the address itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.addresses import bad_database_url, bad_network, bad_origins, bad_web_url


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a.db",
        "sqlite:////var/lib/a.db",
        "postgresql://host/name",
        "postgres://user:p%40ss@host:5432/name?sslmode=require&connect_timeout=3",
        "postgresql://one:5432,two:5433/name",
        "postgresql://user@[::1]:5432/name",
        "postgresql:///name?host=/var/run/postgresql",
    ],
)
def test_a_database_is_named_by_its_url(url: str) -> None:
    """A file, or a server with all that libpq's own URLs may have."""
    assert list(bad_database_url("database.url", url)) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a\n.db",
        "mysql://host/name",
        "postgresql://user:hunter2@pass@host/name",
        "postgresql://user:hunter2/x@host/name",
        "postgresql://user:hunter2%@host/name",
        "postgresql://user:hunter2 x@host/name",
        "postgresql://user:hunter2%00@host/name",
    ],
)
def test_a_url_that_would_be_misread_is_refused_without_its_password(url: str) -> None:
    """libpq would take a part of an unencoded password for the host, and show it."""
    (problem,) = bad_database_url("database.url", url)
    assert problem.path == "database.url"
    assert "hunter2" not in problem.text


@given(st.text(max_size=40))
def test_no_text_is_repeated_by_the_check_of_a_database(text: str) -> None:
    """Whatever is in it may be a password."""
    secret = f"s3cr3t{text}"
    for problem in bad_database_url("database.url", f"postgresql://user:{secret}@x y/name"):
        assert "s3cr3t" not in problem.text


@pytest.mark.parametrize(
    ("url", "allow_http", "good"),
    [
        ("https://host/path", False, True),
        ("http://host/path", True, True),
        ("http://host/path", False, False),
        ("https://", True, False),
        ("https:///path", True, False),
        ("ftp://host/path", True, False),
        ("host/path", True, False),
        ("https://host/a b", True, False),
    ],
)
def test_a_web_address_is_https_unless_http_is_allowed(url: str, allow_http: bool, good: bool) -> None:
    """What anyone on the way could read has to be asked for."""
    assert (list(bad_web_url("url", url, allow_http=allow_http)) == []) is good


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("*", True),
        ("https://shop.example", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("chrome-extension://abcdef", True),
        ("https://shop.example/", False),
        ("https://Shop.example", False),
        ("shop.example", False),
        ("null", False),
        ("https://*.example", False),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(origin: str, good: bool) -> None:
    """It is compared letter by letter, so that another spelling would let nobody in."""
    found = [problem.path for problem in bad_origins("server.beacon_origins", ["*", origin])]
    assert found == ([] if good else ["server.beacon_origins[1]"])


@pytest.mark.parametrize(
    ("network", "good"),
    [
        ("10.0.0.0/8", True),
        ("127.0.0.1", True),
        ("fd00::/8", True),
        ("10.1.2.3/8", False),
        ("localhost", False),
        ("10.0.0.0/33", False),
        ("", False),
    ],
)
def test_a_network_is_an_address_or_a_range(network: str, good: bool) -> None:
    """Names are none: who answers for a name can change what it leads to."""
    assert (list(bad_network("allow_networks[0]", network)) == []) is good
