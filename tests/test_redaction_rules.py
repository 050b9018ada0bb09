"""Redaction rules as text."""

from __future__ import annotations

import pytest

from adjourn.redaction_rules import Rule, parse_rule
from adjourn.settings import ConfigInvalid, Settings, ValidationSettings


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("mask email", Rule("mask", (), "email")),
        ("  hash   phone in outcome.final_message ", Rule("hash", ("outcome", "final_message"), "phone")),
        ("drop card in metadata.custom_tags.*", Rule("drop", ("metadata", "custom_tags", "*"), "card")),
        ("hash user.user_id", Rule("hash", ("user", "user_id"))),
        ("drop session.duration_ms", Rule("drop", ("session", "duration_ms"))),
        ("drop usage", Rule("drop", ("usage",))),
        ("mask event.email", Rule("mask", ("email",))),
        ("mask prompt", Rule("mask", ("prompt",))),
        ("hash outcome.final_state.items.*.name", Rule("hash", ("outcome", "final_state", "items", "*", "name"))),
    ],
)
def test_a_rule_is_an_action_and_what_it_is_done_to(text: str, rule: Rule) -> None:
    """A pattern, a pattern in a field, or a field."""
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write ACTION WHAT"),
        ("email", "write ACTION WHAT"),
        ("encrypt email", "actions are drop, mask, hash"),
        ("mask e-mail in outcome", "give one of email, phone, card, ip, secret_key"),
        ("mask a..b", "names with dots"),
        ("drop session.session_id", "may not be redacted"),
        ("hash event_id", "may not be redacted"),
        ("hash event.event_id", "may not be redacted"),
        ("drop session", "may not be redacted"),
        ("drop session.*", "may not be redacted"),
        ("drop *", "may not be redacted"),
        ("mask email in event_id", "may not be redacted"),
        ("mask usage.input_tokens", "write 'drop usage.input_tokens'"),
        ("hash session.start_time", "can only be dropped"),
        ("mask user", "can only be dropped"),
        ("mask metadata.custom_tags", "can only be dropped"),
        *(
            (rule, "a browser's claim is known")
            for rule in ("drop metadata", "mask metadata.source", "drop metadata.*")
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(text: str, words: str) -> None:
    """Nothing that identifies an event can be redacted, and nothing can be made of a wrong type."""
    with pytest.raises(ValueError, match=words):
        parse_rule(text)


def test_the_settings_name_the_rule() -> None:
    """A wrong rule is refused when the settings are read, by its place."""
    with pytest.raises(ConfigInvalid, match=r"validation\.redact\[1\]: 'email' is no redaction rule"):
        Settings(validation=ValidationSettings(redact=("mask email", "email")))
