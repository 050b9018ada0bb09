from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.configfile import NOT_SETTINGS, load, parse, show, variable_of
from adjourn.errors import ConfigInvalid
from adjourn.layer import settings_by_name
from adjourn.secret import Secret, reveal
from adjourn.settings import CaptureSettings, Settings

FLAT_YAML = """
buffer_size: 50
flush_interval_ms: 2500
retry_attempts: 5
retry_delay_ms: 500
destinations:
  - type: database
    enabled: true
    config:
      connection_string: {env: DATABASE_URL}
      table: completions
  - type: webhook
    enabled: false
    config:
      url: https://api.example.com/events
      headers:
        Authorization: Bearer ${TOKEN}
        Content-Type: application/json
  - type: log
    config: {log_level: info, log_path: /var/log/sessions.log}
"""


def refusal(text: str | Mapping[str, object], **environ: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "adjourn.yaml", environ)
    return str(caught.value)


def load_refusal(overrides: Mapping[str, object] | None = None, **environ: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        load(environ=environ, overrides=overrides or {})
    return str(caught.value)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "routing: {destinations: [{url: 'https://a', retrys: 1}]}",
            "unknown setting 'retrys' at routing.destinations[0]; did you mean 'retry_attempts'?",
        ),
        ("bufferSize: 1", "unknown setting 'bufferSize'; did you mean 'buffer_size'?"),
        (
            "capture: {flushIntervalMs: 1}",
            "unknown setting 'flushIntervalMs' at capture; did you mean 'flush_interval_ms'?",
        ),
        (
            "destinations: [{type: log, log_path: x, config: {logLevel: info}}]",
            "unknown setting 'logLevel' at destinations[0].config; did you mean 'log_level'?",
        ),
        ("servr: {port: 1}", "unknown setting 'servr'; did you mean 'server'?"),
        ("port: 1", "unknown setting 'port'; did you mean 'server.port'?"),
        ("zzz: 1", "unknown setting 'zzz'; known here: "),
        ("1: 2", "the key 1 at the top level is not text"),
        ("server: 1", "server is a value of type int; give a mapping"),
        ("destinations: 1", "destinations is a value of type int; give a list of mappings"),
        ("destinations: [x]", "destinations[0] is a value of type str; give a mapping"),
        ("destinations: [{name: x}]", "destinations[0].type is missing; give one of 'database'"),
        ("destinations: [{type: kafka}]", "routing.destinations[0].type is 'kafka'; give one of 'database'"),
        ("server: {port: null}", "server.port is null; give a whole number"),
        ("log: {retention_days: .nan}", "log.retention_days is nan; give a number above 0"),
        ("capture: {sources: a}", "capture.sources is 'a'; give a list of text"),
        ("logging: {level: INFO}", "logging.level is 'INFO'; give one of 'debug', 'info'"),
        ("destinations: [{url: 'https://a', headers: {X: 1}}]", "headers.X is a value of type int; give text"),
    ],
)
def test_what_is_wrong_is_said_with_path_line_and_remedy(text: str, problem: str) -> None:
    """One mistake is one line: what is wrong where, what to do, and the line of the file."""
    message = refusal(f"# first\n{text}")
    assert message.startswith(problem) or f".{problem}" in message
    assert message.endswith("(adjourn.yaml:2)") or "top level" in message
    assert "\n" not in message


def test_secrets_in_a_list_come_from_elsewhere_too(tmp_path: Path) -> None:
    """Each secret of a list may be written down, or come from the environment or a file; what is missing is told."""
    secret = "whsec_" + "aGlk" * 8
    (tmp_path / "old").write_text(f"{secret}\n")
    listed = f"[{secret}, '${{NEW}}', {{env: NEW}}, {{file: {tmp_path}/old}}]"
    text = f"destinations: [{{url: 'https://a.example', signing_secrets: {listed}}}]"
    (found,) = parse(text, "adjourn.yaml", {"NEW": secret}).routing.destinations
    assert [reveal(one) for one in found.signing_secrets] == [secret] * 4
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "adjourn.yaml", {})
    assert "signing_secrets[1] refers to the environment variable 'NEW'" in caught.value.message
    assert "is not a signing secret" not in caught.value.message


def test_all_problems_are_reported_at_once() -> None:
    """One error lists every problem of a file, one a line, and none that another one only implies."""
    message = refusal(
        "server: {prt: 1, port: x}\n"
        "validation: {require_authentication: 7}\n"
        "routing:\n"
        "  retry_delay_ms: 70000\n"
        "  destinations:\n"
        "    - {type: database, connection_string: 5}\n"
        "    - {type: nothing}\n"
        "    - {name: a, type: logfile}\n"
        "    - {name: a, type: webhook, url: {env: NOT_THERE}}\n"
    )
    assert sorted(line.split(";")[0] for line in message.splitlines()) == [
        "routing.destinations[0].connection_string is a value of type int",
        "routing.destinations[1].type is 'nothing'",
        "routing.destinations[2].log_path is missing, and a logfile destination needs it or log_level",
        "routing.destinations[3].name is 'a', as is that of routing.destinations[2]",
        "routing.destinations[3].url refers to the environment variable 'NOT_THERE', which is not set or empty",
        "routing.retry_delay_ms is 70000, more than routing.retry_delay_ms_max, which is 60000",
        "server.port is 'x'",
        "unknown setting 'prt' at server",
        "validation.require_authentication is 7",
    ]
    assert message.splitlines()[0].endswith("(adjourn.yaml:1)")


KEYS = st.sampled_from([*settings_by_name(), "server", "log", "destinations", "config", "routing", "x", "type", "url"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_mapping_loads_or_is_refused(mapping: dict[str, object], destination: dict[str, object]) -> None:
    """Whatever a mapping holds, it becomes settings or a ConfigInvalid with a remedy on each line; never a crash."""
    listed = {"routing": {"destinations": [destination, destination]}, "hosting": {"runners": [destination]}}
    for raw in (mapping, mapping | listed):
        try:
            loaded = parse(raw, "a mapping", {})
        except ConfigInvalid as refused:
            loaded = refused
        assert isinstance(loaded, Settings) or loaded.message


# --- sources ----------------------------------------------------------------------------------------------------------


def test_later_sources_win_setting_by_setting(tmp_path: Path) -> None:
    """Arguments go before the environment, that before the file, that before the defaults."""
    Path("adjourn.yaml").write_text("server: {port: 1, host: localhost, body_mb_max: 2}\ndata_dir: f\n")
    environ = {"ADJOURN_SERVER__PORT": "3", "ADJOURN_SERVER__BODY_MB_MAX": "4", "HOME": "/x"}
    loaded = load(environ=environ, overrides={"server.port": 5, "server.host": None})
    assert (loaded.server.port, loaded.server.body_mb_max) == (5, 4)
    assert (loaded.server.host, loaded.data_dir, loaded.server.drain_ms_max) == ("localhost", "f", 10_000)


def test_which_file_is_read(tmp_path: Path) -> None:
    """A named file goes before $ADJOURN_CONFIG, that before ./adjourn.yaml, which need not exist."""
    assert load(environ={}, overrides={}) == Settings()
    for i, name in enumerate(("adjourn.yaml", "b.yaml", "c.yaml"), start=1):
        Path(name).write_text(f"server: {{port: {i}}}")
    assert load(environ={}, overrides={}).server.port == 1
    assert load(environ={"ADJOURN_CONFIG": "b.yaml"}, overrides={}).server.port == 2
    assert load("c.yaml", environ={"ADJOURN_CONFIG": "b.yaml"}, overrides={}).server.port == 3


def test_a_link_to_nothing_is_no_absence(tmp_path: Path) -> None:
    """A default file whose target is gone is refused, rather than passed over for the defaults."""
    Path("adjourn.yaml").symlink_to("gone.yaml")
    assert "there is no settings file at adjourn.yaml" in load_refusal()


def test_variables_hold_lists_and_mappings() -> None:
    """A whole list of destinations fits into a variable, with references to secrets in it; the order is kept."""
    text = "[{type: log, log_path: a}, {name: b, url: 'https://b', headers: {A: 'Bearer ${TOKEN}', B: {env: TOKEN}}}]"
    loaded = load(environ={"ADJOURN_ROUTING__DESTINATIONS": text, "TOKEN": "x"}, overrides={})
    first, second = loaded.routing.destinations
    assert (first.log_path, second.name) == ("a", "b")
    assert second.headers == {"A": Secret("Bearer x", "env TOKEN"), "B": Secret("x", "env TOKEN")}
    assert load(environ={"ADJOURN_CAPTURE__SOURCES": "- a\n- b"}, overrides={}).capture.sources == ("a", "b")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, a file that is not UTF-8, one without an end: each is refused with the remedy."""
    (tmp_path / "latin.yaml").write_bytes(b"data_dir: \xe9")
    (tmp_path / "adjourn.yaml").write_bytes(b"data_dir: not this one")
    for path, problem in {
        "none.yaml": "there is no settings file at none.yaml",
        "": "there is no settings file at '', which is no path",
        "/dev/zero": "larger than 1000000 bytes",
        "adjourn.yaml/x": "cannot be read: Not a directory",
        ".": "cannot be read: Is a directory",
        "latin.yaml": "is not UTF-8",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(ConfigInvalid, match=problem) as caught:
            load(path, environ={}, overrides={})
        assert "; " in str(caught.value)
        assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server.port", "9000", 9000),
        ("data_dir", "123", "123"),
        ("server.host", "yes", "yes"),
        ("validation.require_authentication", "false", False),
        ("capture.sources", "[a, b]", ("a", "b")),
        ("log.retention_days", "null", None),
        ("log.retention_days", "0.5", 0.5),
        ("database.url", "sqlite:///a #b.db", "sqlite:///a #b.db"),
        ("logging.level", "debug", "debug"),
    ],
)
def test_text_is_read_as_its_setting_wants(name: str, text: str, value: object) -> None:
    """In variables and arguments, text settings take text as it is, others YAML."""
    for loaded in (load(environ={variable_of(name): text}, overrides={}), load(environ={}, overrides={name: text})):
        section, _, key = name.rpartition(".")
        assert getattr(getattr(loaded, section) if section else loaded, key) == value


def test_destinations_from_the_environment_replace_the_list() -> None:
    """Destinations are one value: a variable that gives them replaces those of the file."""
    Path("adjourn.yaml").write_text(FLAT_YAML)
    environ = {"ADJOURN_ROUTING__DESTINATIONS": "[{type: log, log_level: info}]"}
    assert [d.name for d in load(environ=environ, overrides={}).routing.destinations] == ["logfile"]
    assert load(environ={}, overrides={"destinations": []}).routing.destinations == ()


def test_unknown_variables_are_refused() -> None:
    """An ADJOURN_ variable that is no setting is refused with the one that was meant; listed exceptions are not."""
    assert "did you mean ADJOURN_SERVER__PORT?" in load_refusal(ADJOURN_SERVR__PORT="1")
    assert "did you mean ADJOURN_SERVER__HOST?" in load_refusal(ADJOURN_HOST="x")
    assert "did you mean ADJOURN_CAPTURE__BUFFER_SIZE?" in load_refusal(ADJOURN_CAPTURE_BUFFER_SIZE="1")
    assert "settings are ADJOURN_<SECTION>__<KEY>" in load_refusal(ADJOURN_QQ="1")
    exempt = dict.fromkeys(NOT_SETTINGS - {"ADJOURN_CONFIG"}, "x")
    assert load(environ={**exempt, "ADJOURN_SERVER__PORT": "", "ADJOURN_QQ": ""}, overrides={}) == Settings()


def test_a_variable_that_a_secret_names_is_no_setting() -> None:
    """A secret may live in a variable whose name begins with ADJOURN_."""
    environ = {"ADJOURN_DATABASE__URL": "{env: ADJOURN_PG}", "ADJOURN_PG": "postgresql://h/d"}
    assert load(environ=environ, overrides={}).database_url == "postgresql://h/d"


def test_problems_name_their_source() -> None:
    """A bad value is reported with the variable or argument that gave it."""
    assert load_refusal(ADJOURN_SERVER__PORT="x").endswith("(ADJOURN_SERVER__PORT)")
    assert load_refusal(ADJOURN_LOG__RETENTION_DAYS="[").startswith("ADJOURN_LOG__RETENTION_DAYS:1:")
    assert load_refusal({"server.port": "x"}).endswith("(argument)")
    assert "unknown setting 'prt' at server; did you mean 'port'?" in load_refusal({"server.prt": 1})
    assert "unknown setting 'qq' at zz; known here: database, log" in load_refusal({"zz.qq": 1})
    assert "server is a section; give its settings one by one: server.host" in load_refusal({"server": {"port": 1}})
    assert "give a list of text, as in [a, b]" in load_refusal(ADJOURN_CAPTURE__SOURCES="a,b")
    assert "known here: database" in refusal({"session_completion_runtime": {"session_completion_runtime": {}}})


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_come_from_environment_and_files(tmp_path: Path) -> None:
    """A secret is read where it lives, keeps its source, and `$${` stands for a literal `${`."""
    (tmp_path / "key").write_text("in-file\n")
    headers = {"A": {"env": "A"}, "F": {"file": str(tmp_path / "key")}, "T": "x ${A} ${B}", "L": "$${A}", "P": "plain"}
    raw = {"destinations": [{"url": "https://${A}.example", "headers": headers}]}
    (destination,) = parse(raw, "a mapping", {"A": "in-env", "B": "2"}).routing.destinations
    assert destination.url == Secret("https://in-env.example", "env A")
    assert destination.headers == {
        "A": Secret("in-env", "env A"),
        "F": Secret("in-file", f"file {tmp_path / 'key'}"),
        "T": Secret("x in-env 2", "env A, B"),
        "L": "${A}",
        "P": "plain",
    }


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ({"env": "NONE"}, "database.url refers to the environment variable 'NONE', which is not set or empty; set it"),
        ("${NONE}", "database.url refers to the environment variable 'NONE', which is not set or empty; set it"),
        ({"file": "none"}, "database.url refers to the file 'none', which cannot be read (No such file or directory)"),
        ({"file": "empty"}, "database.url refers to the file 'empty', which is empty"),
        ({"file": "."}, "cannot be read (Is a directory)"),
        ({"file": "binary"}, "cannot be read (it is not UTF-8 text)"),
        ({"file": "/dev/zero"}, "cannot be read (it is larger than 65536 bytes)"),
        ({"file": "a\0b"}, "cannot be read (embedded null byte)"),
        ("${NONE:-x}", "by 'NONE…', which is more than a name; give the name alone: a reference has no default"),
        ({"vault": "x"}, "database.url is a value of type dict; give text, ${NAME}, {env: NAME} or {file: PATH}"),
        ({"env": "A", "file": "b"}, "database.url is a value of type dict"),
        ({"env": 5}, "database.url is a value of type dict"),
    ],
)
def test_a_secret_that_is_not_there(url: object, problem: str, tmp_path: Path) -> None:
    """A reference to nothing is one problem, with path and remedy."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    message = refusal({"database": {"url": url}})
    assert message.startswith(problem) or problem in message
    assert "\n" not in message


def test_only_secrets_take_references() -> None:
    """A reference where none is read is refused, not taken as text."""
    message = refusal("data_dir: ${HOME}/data", HOME="/root")
    assert message.startswith(
        "data_dir holds ${NAME}, which only secrets may; write the value itself, or set ADJOURN_DATA_DIR"
    )


def test_errors_show_no_secret() -> None:
    """What is wrong with a secret's value is said without the value."""
    for value in ("hidden", "mysql://hidden", "hidden\n"):
        raw = {"database": {"url": "${S}"}, "destinations": [{"url": {"env": "S"}, "headers": {"X": "${S}\n"}}]}
        assert "hidden" not in refusal(raw, S=value)
    assert "hidden" not in refusal("destinations: [{url: 'https://a', headers: [hidden]}]")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "database: {url:postgresql://u:hidden@h.example/d}",
            "unknown setting 'url…' at database; did you mean 'url'?",
        ),
        ('data_dir: "postgresql://u:hidden@h/d\\0"', "data_dir is 'postgresql://u:***@h/d"),
        ("logging: {level: 'https://hidden@h'}", "logging.level is 'https://***@h'; give one of"),
        ("url:postgresql://u:hidden@h.example/d: 1", "unknown setting 'url…'; did you mean"),
        ("destinations: [{type: log, log_path: x, url:https://u:hidden@h/: 1}]", "unknown setting 'url…' at dest"),
        (
            "destinations: [{url: 'https://a', headers: {Authorization:Bearer hidden}}]",
            "headers.Authorization… is null",
        ),
        ("destinations: [{url: 'https://a', headers: {'Authorization: hidden': x}}]", "headers has 'Authorization…'"),
        ("destinations: [{url: 'https://a', headers: {'A: hidden': '${NONE}'}}]", "headers.A… refers to"),
        ("database: {url: '${DB:-postgresql://u:hidden@h/d}'}", "by 'DB…', which is more than a name"),
        ("database: {url: {file: 'postgresql://u:hidden@h/d'}}", "refers to the file 'postgresql://u:***@h/d'"),
        ("database: {url: !!int hidden}", "is not of the type that it is marked as"),
        ("database: {url: !!bool hidden}", "is not of the type that it is marked as"),
        ("database: {url: !!timestamp hidden}", "is not of the type that it is marked as"),
        ("database: {url: &hidden a, x: &hidden b}", "found duplicate anchor"),
    ],
)
def test_a_slip_of_the_hand_shows_no_secret(text: str, problem: str) -> None:
    """A space, a quote or a colon too few makes a secret part of a name; errors, their paths and tracebacks end before
    it."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "adjourn.yaml", {})
    assert problem in str(caught.value)
    assert "hidden" not in "".join(traceback.format_exception(caught.value)) + caught.value.path
    assert "; " in str(caught.value)


def test_show_masks_secrets_and_names_their_source() -> None:
    """`config show` prints every setting, each secret as *** with its source, and literal passwords masked."""
    environ = {"DATABASE_URL": "postgresql://u:hidden@h/d", "TOKEN": "hidden"}
    text = show(parse(f"{FLAT_YAML}database: {{url: 'postgresql://u:hidden@h/x'}}", "a.yaml", environ))
    assert "hidden" not in text
    assert "connection_string: '*** (env DATABASE_URL)'" in text
    assert "Authorization: '*** (env TOKEN)'" in text
    assert "Content-Type: application/json" in text
    assert "url: postgresql://u:***@h/x" in text


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        CaptureSettings,
        sources=st.lists(st.text("abn1-:# ", min_size=1), unique=True).map(tuple),
        buffer_size=st.integers(1, 2**31 - 1),
        fsync=st.sampled_from(["background", "always", "never"]),
    )
)
def test_what_is_shown_can_be_loaded(capture: CaptureSettings) -> None:
    """Settings without secrets survive being shown and read again."""
    original = Settings(capture=capture)
    assert parse(show(original), "shown", {}) == original
