"""Cases in YAML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adjourn.delivery.transform_cases import read_cases
from adjourn.errors import ConfigInvalid

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "transforms.md"
EVENT = "{event_id: e, session: {session_id: s}, usage: {total_tokens: 5}}"


def differences(text: str) -> list[list[str]]:
    return [case.difference() for case in read_cases(text, "cases.yaml")]


def test_the_documented_file_passes() -> None:
    """The example of the how-to page is one that works."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (example,) = (block for block in blocks if block.startswith("# cases.yaml"))
    assert differences(example) == [[], [], []]


def test_each_outcome_can_be_expected() -> None:
    """Filtered, unchanged, failed and an object; a case's own expressions come before the file's."""
    text = f"""
filter: usage.total_tokens > 3
cases:
  - {{event: {EVENT}, expect: unchanged}}
  - {{event: {EVENT}, filter: usage.total_tokens > 7, expect: filtered}}
  - {{event: {EVENT}, filter: usage.total_tokens / 0 > 7, expect: failed}}
  - {{event: {EVENT}, filter: '', transform: audit_v2 , expect: failed}}
"""
    assert differences(text.replace("audit_v2", "\"{'a': metadata.custom_tags.b}\"")) == [[], [], [], []]
    *passed, (wrong,) = differences(text)
    assert (passed, wrong.partition(";")[0]) == ([[], [], []], "there is no transform 'audit_v2'")


def test_what_differs_is_shown_line_by_line() -> None:
    """A minus before what was expected, a plus before what came out, and the reason where there is one."""
    text = f"""
transform: "{{'n': usage.total_tokens}}"
cases:
  - event: {EVENT}
    expect: {{event_id: e, event_type: session.completed, session: {{session_id: s}}, n: 6}}
  - event: {{event_id: e, session: {{session_id: s}}}}
    transform: "{{'n': usage.total_tokens + 1}}"
    expect: filtered
"""
    first, second = differences(text)
    assert '-  "n": 6,' in first
    assert '+  "n": 5,' in first
    assert "-filtered" in second
    assert "+failed" in second
    assert "No matching overloads" in second[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "give cases"),
        ("cases: [{event: {}, expect: {}}]", "case 1: the event is none"),
        ("cases: [{name: a, event: {session: {session_id: s}}, expect: {}}]", "a: the event is none .*event_id"),
        (f"cases: [{{event: {EVENT}, expect: gone}}]", "filtered, unchanged, failed"),
        (f"cases: [{{event: {EVENT}, expect: {{}}, adjourn: {{cost_usd: much}}}}]", "write it as '0.0428'"),
        (f"cases: [{{event: {EVENT}, expect: {{}}, fliter: x}}]", "fliter"),
        ("cases: [}", "this is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(text: str, words: str) -> None:
    """Unknown fields, events that could not be in a log and slips in `expect` are told apart from failures."""
    with pytest.raises(ConfigInvalid, match=words):
        differences(text)
