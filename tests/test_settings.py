from __future__ import annotations

import re
from typing import Literal, get_args, get_origin

import msgspec
import pytest
from psycopg.conninfo import conninfo_to_dict
from rich.pretty import pretty_repr

from adjourn.errors import ConfigInvalid
from adjourn.layer import LISTS, settings_by_name
from adjourn.secret import Secret
from adjourn.setting import Leaf, Section
from adjourn.settings import (
    CaptureSettings,
    DatabaseSettings,
    DestinationSettings,
    LogSettings,
    RoutingSettings,
    ServerSettings,
    Settings,
    ValidationSettings,
    default_settings,
)
from tests import documented


def refusal(**sections: Section | str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        Settings(**sections)
    return str(caught.value)


def routed(*destinations: DestinationSettings) -> RoutingSettings:
    return RoutingSettings(destinations=destinations)


SIGNING = "whsec_" + "aGlk" * 8


def webhook(**fields: object) -> DestinationSettings:
    return DestinationSettings(**{"type": "webhook", "url": "https://a.example/in", **fields})


def registered() -> dict[str, Leaf]:
    nested = {f"{path}[].{name}": leaf for path, it in LISTS.items() for name, leaf in it.settings.items()}
    return dict(settings_by_name()) | nested


def test_every_setting_is_documented() -> None:
    """The reference page names each setting that the code has, and no other."""
    names = documented.documented_names("settings.md")
    assert not documented.differences(registered(), names, page="settings.md")


def as_documented(default: object) -> str:
    if default is msgspec.NODEFAULT:
        return "required"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    words = {"": '""', "None": "null", "True": "true", "False": "false"}
    return f"`{words.get(str(default), str(default))}`"


def test_documented_defaults_are_the_defaults() -> None:
    """The page's third column is the default in the code, and its second names each option of a choice."""
    rows = documented.documented_rows("settings.md")
    for name, leaf in registered().items():
        _, kind, default, effect = rows[name]
        assert default == as_documented(leaf.default), name
        assert effect, name
        options = get_args(leaf.type) if get_origin(leaf.type) is Literal else ()
        assert re.findall(r"`([^`]+)`", kind) == [option or '""' for option in options], name


def test_no_setting_is_needed() -> None:
    """The defaults are valid settings, and those that were promised."""
    settings = default_settings()
    assert settings == Settings()
    assert (settings.capture.buffer_size, settings.capture.flush_interval_ms) == (100, 5000)
    assert (settings.routing.retry_attempts, settings.routing.retry_delay_ms) == (3, 1000)
    assert settings.database_url == "sqlite:///data/adjourn.db"
    assert settings.spool_dir == "data/spool"


def test_places_follow_data_dir_unless_given() -> None:
    """The database and the spool stand in data_dir, each unless it has a place of its own."""
    assert Settings(data_dir="/d").database_url == "sqlite:////d/adjourn.db"
    assert Settings(data_dir="/d").spool_dir == "/d/spool"
    given = Settings(database=DatabaseSettings(url="postgres://h/x"), capture=CaptureSettings(spool_dir="/s"))
    assert (given.database_url, given.spool_dir) == ("postgresql://h/x", "/s")


def test_values_are_checked_in_process_too() -> None:
    """Settings that are built in code are checked as a file is: types, bounds, all problems at once."""
    text = refusal(
        capture=CaptureSettings(buffer_size=0, spool_full="x"),
        server=ServerSettings(port="80"),
        routing=routed(webhook(sampling_rate=float("nan"))),
        log="all",
    )
    lines = sorted(text.splitlines())
    assert [line.split(";")[0] for line in lines] == [
        "capture.buffer_size is 0",
        "capture.spool_full is 'x'",
        "log is a value of type str",
        "routing.destinations[0].sampling_rate is nan",
        "server.port is '80'",
    ]
    assert "give a whole number from 1 to 2147483647, or leave it out for 100" in lines[0]


@pytest.mark.parametrize("value", [0, -1, 2**31, True, 1.5, "5", None])
@pytest.mark.parametrize("field", ["buffer_size", "flush_interval_ms", "spool_mb_max", "fsync_interval_ms"])
def test_counts_are_positive(field: str, value: object) -> None:
    """A count is a whole number above zero; anything else is refused with its path and a remedy."""
    text = refusal(capture=CaptureSettings(**{field: value}))
    assert text.startswith(f"capture.{field} is ")
    assert "leave it out" in text


def test_a_destination_is_named_after_its_type() -> None:
    """Without a name its type is its name, and the second of that name is refused with the remedy."""
    assert webhook().name == "webhook"
    Settings(routing=routed(webhook(), webhook(name="other")))
    text = refusal(routing=routed(webhook(), webhook()))
    assert "routing.destinations[1].name is 'webhook', as is that of routing.destinations[0]" in text
    assert "give each its own name" in text


@pytest.mark.parametrize(
    ("destination", "problem"),
    [
        (DestinationSettings(type="database"), "connection_string is missing"),
        (DestinationSettings(type="database", connection_string="mysql://u:hidden@h/d"), "sqlite:///path/to/file.db"),
        (DestinationSettings(type="database", connection_string="sqlite:///:memory:"), "names no file"),
        (DestinationSettings(type="database", connection_string="sqlite:///a", table="a b"), "table is 'a b'"),
        (DestinationSettings(type="database", connection_string="sqlite:///a", table="t" * 57), "at most 56 letters"),
        (DestinationSettings(type="database", connection_string="sqlite:///a", table='a"; --'), "plain name"),
        (DestinationSettings(type="logfile"), "log_path is missing"),
        (
            DestinationSettings(type="logfile", log_level="info", rotate_mb=1),
            "rotate_mb has no effect without log_path",
        ),
        (DestinationSettings(type="webhook"), "url is missing"),
        (DestinationSettings(type="analytics"), "url is missing"),
        (DestinationSettings(type="upstream"), "url is missing"),
        (webhook(url="ftp://u:hidden@h"), "url is not a web address"),
        (webhook(table="t"), "table has no effect on a destination of type 'webhook'"),
        (webhook(url="http://u:hidden@h/"), "url is plain http"),
        (webhook(headers={"Webhook-Id": "x"}), "which Adjourn itself sets"),
        (webhook(signing_secrets=("whsec_hidden",)), "signing_secrets[0] is not a signing secret"),
        (webhook(signing_secrets=("whsk_" + "A" * 40,)), "signing_secrets[0] is not a signing secret"),
        (webhook(signing_secrets=(1,)), "signing_secrets is a value of type tuple; give a list, each of text"),
        (webhook(allow_networks=("10.0.0.1/8",)), "allow_networks[0] is '10.0.0.1/8', which is no network"),
        (webhook(compression="br"), "compression is 'br'"),
        (DestinationSettings(type="logfile", log_path="x", concurrency=2), "concurrency has no effect"),
        (webhook(headers={"bad name": "x"}), "no header's name"),
        (webhook(headers={"X": "hidden\r\nY: 1"}), "headers.X holds a line break"),
        (webhook(headers={"X": Secret("hidden\n", "env X")}), "headers.X holds a line break"),
        (webhook(name="a b"), "name is 'a b'"),
        (webhook(sampling_rate=1.01), "sampling_rate is 1.01; give a number from 0 to 1"),
        (webhook(retention_days=0), "retention_days is 0"),
        (webhook(retry_delay_ms=60_001), "more than routing.retry_delay_ms_max"),
        (webhook(drop_after_ms=0), "drop_after_ms is 0"),
        (
            webhook(drop_after_ms=1),
            "drop_after_ms has no effect while the log keeps everything; set",
        ),
    ],
)
def test_a_destination_has_what_its_type_needs_and_no_more(destination: DestinationSettings, problem: str) -> None:
    """What a type needs and lacks, or has and does not use, is one problem with its path, and shows no secret."""
    text = refusal(routing=routed(destination))
    assert text.startswith("routing.destinations[0].")
    assert problem in text
    assert "hidden" not in text
    assert "\n" not in text


def test_two_log_files_are_two_files() -> None:
    """Two destinations that write one file would tear each other's lines: refused."""
    one = DestinationSettings(type="logfile", name="a", log_path="/x.jsonl")
    assert "log_path is '/x.jsonl', as is that of" in refusal(
        routing=routed(one, DestinationSettings(type="logfile", name="b", log_path="/x.jsonl"))
    )
    assert "as is that of" in refusal(
        routing=routed(one, DestinationSettings(type="logfile", name="b", log_path="/y/../x.jsonl"))
    )


def test_no_log_file_is_rotated_onto_another() -> None:
    """A file may not be one of those that another destination's is put aside as; beyond rotate_keep it may."""

    def with_number(number: int) -> RoutingSettings:
        one = DestinationSettings(type="logfile", name="a", log_path="/x.jsonl", rotate_keep=2)
        return routed(DestinationSettings(type="logfile", name="b", log_path=f"/x.jsonl.{number}"), one)

    for number in (1, 2):
        assert "routing.destinations[0].log_path is" in refusal(routing=with_number(number))
    Settings(routing=with_number(3))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.evil.example"])
def test_an_open_server_stays_on_loopback(host: str) -> None:
    """Without authentication only a loopback address may be listened on."""
    unguarded = ValidationSettings(require_authentication=False)
    text = refusal(validation=unguarded, server=ServerSettings(host=host))
    assert "validation.require_authentication is false" in text
    Settings(server=ServerSettings(host=host))
    for loopback in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        Settings(validation=unguarded, server=ServerSettings(host=loopback))


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"database": DatabaseSettings(lanes=4)}, "database.lanes is 4, but SQLite has one writer"),
        ({"database": DatabaseSettings(lanes=5)}, "database.lanes is 5; give a whole number from 1 to 4"),
        ({"database": DatabaseSettings(url="postgresql://h/d", durability="normal")}, "which only SQLite has"),
        ({"database": DatabaseSettings(url="x")}, "database.url is not a database's URL"),
        ({"database": DatabaseSettings(url="sqlite:///")}, "database.url names no file"),
        ({"capture": CaptureSettings(fsync="never", fsync_interval_ms=10)}, "fsync_interval_ms has no effect"),
        ({"capture": CaptureSettings(sources=("a", "a"))}, "capture.sources[1] is 'a' for the second time"),
        ({"capture": CaptureSettings(sources=("",))}, "capture.sources[0] is empty"),
        ({"routing": RoutingSettings(retry_delay_ms=9, retry_delay_ms_max=8)}, "more than routing.retry_delay_ms_max"),
        ({"data_dir": ""}, "data_dir is ''; give text that is not empty"),
        ({"server": ServerSettings(port=65_536)}, "server.port is 65536"),
        ({"server": ServerSettings(host="a\0")}, "server.host is 'a\\x00'; give text that is not empty, on one line"),
        ({"data_dir": "a\nb"}, "data_dir is 'a\\nb'; give text that is not empty, on one line"),
        ({"data_dir": "a\ud800"}, "data_dir is 'a\\ud800'"),
        ({"capture": CaptureSettings(spool_dir="a\0")}, "capture.spool_dir is 'a\\x00'; give text on one line"),
        ({"database": DatabaseSettings(url="sqlite:///a\0b")}, "database.url holds a line break or control character"),
        ({"database": DatabaseSettings(url="postgresql://h/d\n")}, "database.url holds a line break"),
    ],
)
def test_settings_that_contradict_each_other(sections: dict[str, Section], problem: str) -> None:
    """A setting that another one forbids or voids is refused, with what to change."""
    text = refusal(**sections)
    assert problem in text
    assert ";" in text


@pytest.mark.parametrize("log", [LogSettings(retention_days=1), LogSettings(retention_mb=1)])
def test_what_is_kept_for_ever_is_never_dropped(log: LogSettings) -> None:
    """drop_after_ms needs retention by age or by size."""
    Settings(routing=routed(webhook(drop_after_ms=1)), log=log)


@pytest.mark.parametrize(
    "rest",
    [
        "u:100%hidden@h/d",
        "u:%00hidden@h/d",
        "u:hidden pass@h/d",
        "u:p@hidden@h/d",
        "u:p/hidden@h/d",
        "u:p?hidden@h/d",
        "u:p#hidden@h/d",
        "h:hidden/d",
        "[hidden/d",
        "h/d?hidden",
        "h/d?password=a&hidden",
        "h/d?password=a=hidden",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_before_libpq_repeats_it(rest: str) -> None:
    """libpq takes a part of such a password for a host, port or parameter, and its errors name that part."""
    text = refusal(database=DatabaseSettings(url=f"postgresql://{rest}"))
    assert "database.url cannot be read as PostgreSQL's URL; give postgresql://user:password@host:port/name" in text
    assert "hidden" not in text


@pytest.mark.parametrize(
    "rest",
    [
        "h",
        "u@h/d",
        "u:p%40%2F%25:[x]!$&'()*+,;=@h:5432/d",
        "/d",
        "u@/d?host=/tmp/s&port=5432",
        "%2Ftmp%2Fs/d",
        "a:1,b:2,[::1]:3/d?target_session_attrs=any",
        "u:p@[fe80::1%25eth0]/d?options=-c%20geqo%3Doff",
    ],
)
def test_whatever_libpq_reads_rightly_is_a_url(rest: str) -> None:
    """Hosts by name, address, list and socket, parameters, and special characters that are encoded."""
    Settings(database=DatabaseSettings(url=f"postgresql://{rest}"))
    conninfo_to_dict(f"postgresql://{rest}")


def test_a_destination_may_have_its_own_retries() -> None:
    """A destination's own attempts and delay go before routing's, which hold where it has none."""
    routing = RoutingSettings(retry_attempts=7, retry_delay_ms=11)
    own = webhook(retry_attempts=1, retry_delay_ms=2)
    assert (routing.attempts_of(own), routing.delay_ms_of(own)) == (1, 2)
    assert (routing.attempts_of(webhook()), routing.delay_ms_of(webhook())) == (7, 11)


def test_repr_shows_no_secret() -> None:
    """Neither passwords in URLs, nor headers, nor secrets appear when settings are printed or logged."""
    settings = Settings(
        database=DatabaseSettings(url="postgresql://u:hidden@h/d"),
        routing=routed(
            webhook(
                url="https://h/x?token=hidden",
                headers={"Authorization": "Bearer hidden", "Accept": "text/plain"},
                signing_secrets=(SIGNING, Secret(SIGNING, "env SIGNING")),
            ),
            DestinationSettings(type="database", connection_string=Secret("postgresql://u:hidden@h/d", "env DB")),
        ),
    )
    text = repr(settings) + str(settings) + pretty_repr(settings)
    assert "hidden" not in text
    assert "postgresql://u:***@h/d" in text
    assert "*** (env DB)" in text
    assert SIGNING not in text
    assert "*** (env SIGNING)" in text
    assert "text/plain" in text
