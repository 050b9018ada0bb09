"""What is typed as KEY=VALUE."""

from __future__ import annotations

from decimal import Decimal

import pytest

from adjourn.cli.session_options import given, over, pairs, texts
from adjourn.errors import ConfigInvalid


def test_values_are_json_or_text() -> None:
    """What JSON reads is that; the rest is as it was typed, further equal signs too."""
    found = pairs("--option", ["a=1", "b=true", 'c={"x": [1]}', "d=to {text}", "e=x=y", "f=", "g=1.5"])
    assert found == {"a": 1, "b": True, "c": {"x": [1]}, "d": "to {text}", "e": "x=y", "f": "", "g": 1.5}
    assert pairs("--limit", ["max_budget_usd=0.10"], exact=True) == {"max_budget_usd": Decimal("0.10")}
    assert texts("--agent", ["a=be=brief", "b"]) == {"a": "be=brief", "b": ""}
    for wrong in ("a", "=1", " =1"):
        with pytest.raises(ConfigInvalid):
            pairs("--option", [wrong])


def test_only_what_was_given_is_asked_for() -> None:
    """False and 0 are values."""
    assert given(a="", b=None, c=[], d=False, e=0, f="x") == {"d": False, "e": 0, "f": "x"}


def test_what_is_typed_comes_over_a_file() -> None:
    """Field by field, objects within objects too; an empty one changes nothing."""
    below = {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert over(below, {"a": {"b": {"c": 4}}, "f": {}, "e": 5}) == {"a": {"b": {"c": 4, "d": 2}}, "e": 5}
