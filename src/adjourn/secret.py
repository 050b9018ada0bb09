"""Secrets: values that are used but never shown. `Secret` hides what was read from elsewhere; `mask` hides what was
written down literally. Neither repr, str, format, nor any encoder gives the value; only `reveal` does."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(://[^:/@?#\s]*):.*@", re.DOTALL)  # greedy: a password may itself contain @, / or :
_USER_ALONE = re.compile(r"(https?://)[^/@?#\s:]+@")  # https://<token>@host
_PARAMETER = re.compile(
    r"(?i)((?:^|[?&;#\s])[\w-]*?(?:pass(?:word|wd)?|pwd|token|secret|key|sig|signature|auth|credentials?|code|jwt)\s*=\s*)"
    r"('(?:[^'\\]|\\.)*'|[^&;\s]+)"
)
_HARMLESS_HEADERS = frozenset({"accept", "accept-encoding", "content-type", "user-agent"})


class Secret:
    """A value that came from `source`, such as `env DATABASE_URL`. Shown as `*** (env DATABASE_URL)`."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        self.source = source

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        return f"*** ({self.source})"

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.source) == (other._value, other.source)

    def __hash__(self) -> int:
        return hash((self._value, self.source))


def reveal(value: str | Secret) -> str:
    """The text itself, for the one place that uses it."""
    return value.reveal() if isinstance(value, Secret) else value


def mask(text: str) -> str:
    """A URL or connection string without its passwords, tokens and keys; rather hides too much than too little."""
    text = _USERINFO.sub(r"\1:***@", text)
    text = _USER_ALONE.sub(r"\1***@", text)
    return _PARAMETER.sub(r"\1***", text)


def mask_header(name: str, value: str | Secret) -> str:
    if isinstance(value, Secret):
        return str(value)
    return value if name.lower() in _HARMLESS_HEADERS else "***"
