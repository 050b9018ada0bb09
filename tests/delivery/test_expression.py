"""Filter and transform expressions."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.delivery.events import EVENT, MINIMAL, changed, stored

from adjourn.delivery.expression import compile_expression
from adjourn.delivery.transform_view import View
from adjourn.errors import ConfigInvalid, ShapingFailed
from adjourn.events import StoredEvent
from adjourn.testing.exercise_destination import change_of_status


def holds(source: str, event: StoredEvent | None = None) -> bool:
    return compile_expression("filter", source).holds(View(event or stored()))


def fields(source: str, event: StoredEvent | None = None) -> dict[str, object]:
    return compile_expression("transform", source).fields(View(event or stored()))


@pytest.mark.parametrize(
    "source",
    [
        "usage.model == 'gpt-4' && usage.total_tokens > 1000",
        "usage.model.startsWith('gpt-') && !(outcome.status in ['error', 'timeout'])",
        "usage.model.matches('(?i)^GPT-[0-9]$')",
        "metadata.custom_tags.team == 'support'",
        "has(metadata.custom_tags.team) && !has(metadata.custom_tags.project)",
        "timestamp(timestamp) > timestamp('2025-01-01T00:00:00Z')",
        "duration('5m') < timestamp(session.end_time) - timestamp(session.start_time)",
        "adjourn.tenant == 'acme' && adjourn.offset == 41 && adjourn.partition == 0",
        "adjourn.cost_nanousd == 42800000 && nanousd(usage.estimated_cost_usd) == adjourn.cost_nanousd",
        "adjourn.cost_usd == '0.042800000' && adjourn.received_at == '2025-12-21T10:30:45.200Z'",
        "event.user.tier == 'pro' && event_type == 'session.completed' && amends == null",
        "user.?nickname.orValue('none') == 'none'",
    ],
)
def test_an_expression_sees_the_event_and_adjourns_facts(source: str) -> None:
    """Sections, tags, times, amounts and what Adjourn knows are there under their names."""
    assert holds(source)


@pytest.mark.parametrize(
    ("source", "passes"),
    [
        ("user.tier == null", True),
        ("user.tier != 'free'", True),
        ("user.tier == 'pro'", False),
        ("usage.total_tokens > 10", False),
        ("usage.total_tokens <= 10", False),
        ("!(usage.total_tokens > 10)", False),
        ("usage.total_tokens > 10 || session.session_id == 's'", True),
        ("usage.total_tokens > 10 && session.session_id == 's'", False),
        ("metadata.custom_tags.team == 'a'", False),
        ("metadata.custom_tags.team.lead == 'a'", False),
        ("has(metadata.custom_tags.team)", False),
        ("outcome.final_state.tags.exists(tag, tag == 'a')", False),
        ("'a' in outcome.final_state", False),
        ("outcome.final_state.exists(x, x > 1)", False),
        ("user.tier.startsWith('p')", False),
        ("event.user.tier == 'pro'", False),
        ("timestamp(timestamp) > timestamp('2025-01-01T00:00:00Z')", False),
        ("metadata.custom_tags.flag ? true : true", False),
        ("event_type == 'session.completed'", True),
    ],
)
def test_what_is_missing_never_fails_a_filter(source: str, passes: bool) -> None:
    """A field of the schema that was not sent is null; a part that needs more than null is neither true nor false, so
    that the other side of || and && decides, and an event about which nothing can be said does not pass."""
    assert holds(source, MINIMAL) is passes


def test_null_is_the_same_as_missing() -> None:
    """A section, a field or the tags that were sent as null are as those that were not sent."""
    nulls = changed(user={"user_id": None}, metadata={"custom_tags": None}, usage=[], outcome="x")
    for source in ("user.user_id == null", "usage.model == null", "!has(metadata.custom_tags.a)"):
        assert holds(source, nulls), source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("usage.total_tokens / 0 > 1", "divide by zero"),
        ("usage.total_tokens + 9223372036854775807 > 1", "overflow"),
        ("usage.model > 5", "No matching overloads"),
        ("user.tier", "gives a value of type str"),
        ("nanousd(usage.model) > 5", "'gpt-4' is not an amount in USD"),
    ],
)
def test_a_filter_that_goes_wrong_says_so(source: str, words: str) -> None:
    """An expression that fails on what is there is no answer: the event must not silently be filtered out."""
    with pytest.raises(ShapingFailed, match=words):
        holds(source)


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("filter", "usage.total_tokens >", r"line 1, column 21: Syntax error"),
        ("filter", "true &&\n  usge.model == 'a'", r"line 2, column \d+: undeclared .*did you mean usage\?"),
        ("filter", "nonsense == 1", "other fields are event.NAME"),
        ("filter", "usage.total_tokens + 1", "it must give true or false"),
        ("filter", "1 + 'a' == 2", "column"),
        ("transform", "true", "it must give an object"),
        ("transform", "{'a': ", "Syntax error"),
        ("filter", "has(user.tier)", r"write user.tier != null"),
        ("filter", "adjourn.cost_usd > 0.1", "use adjourn.cost_nanousd"),
        ("filter", "usage.model.matches('(a')", "invalid regular expression"),
        ("filter", "usage.model.matches('a{1000}{1000}')", "invalid regular expression"),
        ("filter", "(" * 500 + "true" + ")" * 500, "recursion"),
        ("filter", "+".join(["1"] * 2_000) + " > 1", "recursion"),
        ("filter", "a" * 200_000, "10000 is the most"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_runs(kind: str, source: str, words: str) -> None:
    """An expression with a mistake in it is refused with its place and a remedy, and so are known slips."""
    with pytest.raises(ConfigInvalid, match=words):
        compile_expression("filter" if kind == "filter" else "transform", source)


def test_a_slip_inside_text_is_none() -> None:
    """What looks like a slip, in a text or a comment, is left alone."""
    assert holds("usage.model != 'has(user.tier)' && user.tier != \"cost_usd > 1\" // has(user.tier)")


def test_no_expression_runs_away() -> None:
    """Loops within loops over what a sender wrote, loops over long texts, and hostile regular expressions, end soon."""
    tags = {"items": list(range(300)), "text": "a" * 100_000 + "b"}
    items, text = "metadata.custom_tags.items", "metadata.custom_tags.text"
    event = changed(metadata={"custom_tags": tags})
    began = time.monotonic()
    with pytest.raises(ShapingFailed, match="Iteration budget"):
        loops = f"{items}.all(a, {items}.all(b, {items}.all(c, a + b + c >= 0)))"
        holds(loops, changed(metadata={"custom_tags": {"items": tags["items"]}}))
    for loop in (
        f"{items}.all(a, {items}.all(b, a + b >= 0))",
        f"{items}.map(x, {'+'.join([text] * 20)}) != []",
        f"[1, 2].all(a, [1, 2].all(b, {' && '.join([f'{items}.all(c, !{text}.contains(string(c)))'] * 2)}))",
    ):
        with pytest.raises(ShapingFailed, match="too much text"):
            holds(loop, event)
    assert not holds(f"{text}.matches('^(a+)+$')", event)
    assert holds(f"{items}.exists(x, x == 299) && {text}.endsWith('b')", event)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "loop",
    [
        "{ninety}.//\n all(i, {ninety}./* no comment */all(j, true))",
        "{ninety}.//\n all(i, {ninety}.//.\n all(j, !event.text.contains('{long}b')))",
        "{ninety}.all(i, {ninety}.all(j, !(7 in event.list)))",
        "{ninety}.all(i, {ninety}.all(j, event.list == event.twin))",
        "{ninety}.all(i, {ninety}.all(j, !'a'.matches('((a{{0,30}}){{30}}b)')))",
        "{ninety}.all(i, {ninety}.all(j, !'a'.matches('(a' + event.pattern)))",
        "{ninety}.all(i, {ninety}.all(j, !matches('a', event.pattern)))",
    ],
)
def test_no_loop_runs_away_unseen(loop: str) -> None:
    """Neither a comment in its middle, nor a comparison of long lists, nor a pattern that takes long to compile, hides
    what a loop costs: each of these took 10 s and more."""
    event = changed(text="a" * 240_000, list=[1] * 50_000, twin=[1] * 50_000, pattern="((a{0,30}){30}b)")
    source = loop.format(ninety=f"[{','.join('1' * 90)}]", long="a" * 30)
    with pytest.raises((ShapingFailed, ConfigInvalid), match=r"too much text|Syntax error"):
        holds(source, event)


def test_no_transform_copies_a_list_into_each_member_of_another() -> None:
    """What a sender wrote as two lists does not become ninety million values."""
    event = changed(a=[1] * 3_000, b=[1] * 30_000)
    with pytest.raises(ShapingFailed, match="too much text"):
        fields("{'all': event.a.map(x, event.b)}", event)
    assert fields("{'all': event.a.map(x, x + 1)}", changed(a=[1] * 3_000)) == {"all": [2] * 3_000}


def test_loops_of_ordinary_size_are_let_through() -> None:
    """A thousand members compared with a text or a number, and plain patterns, are no danger."""
    event = changed(items=[{"name": f"n{i}", "size": i} for i in range(1_000)])
    assert holds("event.items.exists(x, x.name == 'n999' && x.size == 999)", event)
    assert holds("event.items.exists(x, x.name.matches('^n99[0-9]$'))", event)
    assert holds("['a', 'b', 'c'].exists(word, event.text.contains(word))", changed(text="a" * 100_000))


def test_values_that_the_language_lacks_do_not_stop_it() -> None:
    """A number beyond 64 bits is its text, half a surrogate pair a question mark; the rest is as it was."""
    event = changed(metadata={"custom_tags": {"big": 2**70, "team": "a"}})
    assert holds("metadata.custom_tags.team == 'a'", event)
    assert fields("{'big': metadata.custom_tags.big}", event) == {"big": str(2**70)}
    half = stored(b'{"event_id":"e","session":{"session_id":"s"},"x":"\\ud800","y":1}')
    assert holds("event.y == 1", half)


def test_a_transform_gives_an_object() -> None:
    """Values, lists, objects and arithmetic come out as JSON has them; `?` leaves a field out that is not there."""
    given = fields(
        "{'n': usage.input_tokens + usage.output_tokens, 'tags': metadata.custom_tags, 'l': [1, 2].map(x, x * 2), "
        "?'project': metadata.custom_tags.?project, 'tier': user.tier, 'usd': usd(adjourn.cost_nanousd * 3)}"
    )
    assert given == {"n": 2140, "tags": {"team": "support"}, "l": [2, 4], "tier": "pro", "usd": "0.128400000"}
    assert fields("{'tier': user.tier, 'model': usage.model}", MINIMAL) == {"tier": None, "model": None}


@pytest.mark.parametrize(
    "source", ["{'a': metadata.custom_tags.none}", "{'a': usage.total_tokens + 1}", "event.user.tier"]
)
def test_a_transform_that_needs_what_is_missing_says_how_to_allow_for_it(source: str) -> None:
    """Nothing is made up: the event fails, and the reason names ways to give a default."""
    with pytest.raises(ShapingFailed, match="orValue"):
        fields(source, MINIMAL)


def test_a_node_without_filters_does_not_load_the_evaluator() -> None:
    """The evaluator costs ten megabytes, which nobody pays who does not use it."""
    program = "import adjourn.node, sys; print(any(name.startswith('cel_expr') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_the_extra_the_remedy_is_named() -> None:
    """Where CEL is not installed, an expression is refused with the command that installs it."""
    program = (
        "import sys; sys.modules['cel_expr_python.cel'] = None\n"
        "from adjourn.delivery.transform import shaping_of\n"
        "from adjourn.errors import ExtraMissing\n"
        "assert shaping_of(filter='', transform='billing_v1')\n"
        "try: shaping_of(filter='true', transform='')\n"
        "except ExtraMissing as error: print(error.message)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'adjourn[cel]'" in done.stdout


def test_the_event_is_what_was_tried() -> None:
    """The example has every section, so that a test of what is there is one."""
    assert set(EVENT) >= {"session", "user", "usage", "outcome", "metadata"}


@pytest.mark.parametrize(
    ("source", "true"),
    [
        ("event_type == 'session.status_changed' && to == 'active' && from == 'idle'", True),
        ("to == 'idle' || usage.total_tokens > 5", False),
        ("reason.startsWith('mess') && session.pattern == 'hybrid' && session.revision > 6", True),
        ("event_type != 'session.status_changed'", False),
        ("outcome.status == null && adjourn.cost_nanousd == null", True),
    ],
)
def test_a_filter_sees_changes_of_status(source: str, true: bool) -> None:
    """With the names that the reference gives; the same filter stands completions, which have none of them."""
    assert holds(source, change_of_status(7)) is true
    holds(source)
