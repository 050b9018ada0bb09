from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.configfile import parse
from adjourn.errors import ConfigInvalid
from adjourn.settings import Settings
from adjourn.yamltext import dump, parse_yaml


def refusal(text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "adjourn.yaml", {})
    return str(caught.value)


def bomb(first: str, following: str) -> str:
    """Nine aliases in each of nine levels, of which each unfolds to nine times the one before."""
    levels = [f"a{i}: &a{i} " + following % ", ".join([f"*a{i - 1}"] * 9) for i in range(1, 10)]
    return "\n".join([f"a0: &a0 {first}", *levels])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server:\n  port: [1", "adjourn.yaml:2:"),
        ("server: 1\nlog:\n\tx: 1", "adjourn.yaml:3:1: this is not YAML"),
        (
            "data_dir: a\nserver:\n  port: 1\n  port: 2",
            "server.port is given twice, on line 3 too; keep one of them (adjourn.yaml:4)",
        ),
        ("a: 1\n---\nb: 2", "adjourn.yaml:2:1: this is not YAML"),
        ("x: !!python/object:os.system {}", "adjourn.yaml:1:4: this is not YAML"),
        ("- a", "the top level is a value of type list; give a mapping"),
        ("just text", "the top level is a value of type str; give a mapping"),
        ("server: {}\ndata_dir: \x00", "adjourn.yaml:2: this is not YAML: special characters are not allowed"),
        ("a: 1\n---\nb: 2", "expected a single document in the stream, but found another document"),
        ("data_dir: " + "[" * 1500, "nested too deeply"),
        ("server: {port: " + "9" * 5000 + "}", "adjourn.yaml:1:16: this is not YAML"),
        ("server:\n  port: !!bool x", "adjourn.yaml:2:9: this is not YAML"),
        (bomb("{k: 1}", "{<<: [%s]}"), "with its aliases it has more than 100000 values"),
        (bomb("[1]", "[%s]"), "with its aliases it has more than 100000 values"),
        ("server: {port: 010}", "server.port is '010'"),
        ("server: {port: 2:30}", "server.port is '2:30'"),
        ("log: {retention_days: 1:30.5}", "log.retention_days is '1:30.5'"),
        ("server: {port: 0x" + "f" * 5000 + "}", "server.port is a number of thousands of digits"),
        ("data_dir: &a [*a]", "data_dir is ["),
        ("database: {url: *hidden}", "adjourn.yaml:1:17: this is not YAML: found undefined alias;"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(text: str, problem: str) -> None:
    """What is no YAML, or not a mapping, or has a key twice, is refused with file and line; nothing crashes."""
    assert problem in refusal(text)
    assert "hidden" not in refusal(text)


def test_values_that_look_like_dates_are_text() -> None:
    """A date is text, as no setting is a date; YAML merge keys and anchors work."""
    text = "destinations:\n- &a {name: a, url: 'https://a', headers: {X: 2025-01-01}}\n- {<<: *a, name: b}"
    first, second = parse(text, "a.yaml", {}).routing.destinations
    assert first.headers == second.headers == {"X": "2025-01-01"}
    assert second.name == "b"


def test_every_line_is_known() -> None:
    """The value comes with the line of each path in it, those in lists and flow mappings included."""
    value, lines = parse_yaml("a:\n  b: 1\nc:\n- x\n- {y: 2}\n", "a.yaml")
    assert value == {"a": {"b": 1}, "c": ["x", {"y": 2}]}
    assert lines == {"a": 1, "a.b": 2, "c": 3, "c[0]": 4, "c[1]": 5, "c[1].y": 5}
    assert parse_yaml(dump({"b": [1], "a": "ü"}), "")[0] == {"b": [1], "a": "ü"}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="ab:{}[]&*!|>-'\"#\n \t${}", max_size=40))
def test_any_text_loads_or_is_refused(text: str) -> None:
    """Whatever a file holds, reading it ends in settings or in a ConfigInvalid."""
    try:
        loaded = parse(text, "a.yaml", {})
    except ConfigInvalid as refused:
        loaded = refused
    assert isinstance(loaded, Settings) or loaded.message


def test_yaml_is_imported_only_when_there_is_some() -> None:
    """A process that configures itself in code, or by variables that are text, does not pay for PyYAML."""
    code = (
        "import sys; from adjourn.configfile import load;"
        "load(environ={'ADJOURN_DATA_DIR': 'x', 'ADJOURN_DATABASE__URL': 'sqlite:///x.db'}, "
        "overrides={'server.port': 1});"
        "sys.exit('yaml' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
