"""What redaction finds in text: e-mail addresses, telephone numbers, payment cards, secret keys.

A text is searched in time proportional to its length, whatever a sender writes into it: repetitions are possessive or
short. docs/howto/redact.md says what each pattern takes for a match.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Final

from adjourn.redaction_rules import Action, Pattern

Replace = Callable[[str], str]

_EMAIL: Final = re.compile(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)++")
# +49 30 1234567, (415) 555-0132, 415-555-0132: not every row of digits, of which ids are made.
_PHONE: Final = re.compile(
    r"(?<![\w+])\+\d(?:[ ().-]{0,2}\d){6,14}(?!\d)|(?<![\w-])(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-])"
)
_DIGITS: Final = re.compile(r"[0-9]{3,}+(?:[ -][0-9]{3,}+)*+")
_SECRET_KEY: Final = re.compile(
    r"""-----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----(?:[^-]++|-(?!----END))*+(?:-----END\ [A-Z ]{0,40}-----)?
    |(?<![A-Za-z0-9])(?:
       sk-[\w-]{16,}+ | (?:sk|rk|pk)_(?:live|test)_\w{16,}+ | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{35}
      |gh[pousr]_\w{30,}+ | github_pat_\w{20,}+ | glpat-[\w-]{20,}+ | hf_\w{30,}+ | npm_\w{30,}+ | pypi-[\w-]{30,}+
      |xox[a-z]-[\w-]{10,}+ | adj_[A-Za-z0-9]{32} | whs(?:ec|k)_[A-Za-z0-9+/=]{24,}+
      |(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]++
      |[Bb]earer\ [\w.~+/=-]{16,}+
    )""",
    re.VERBOSE,
)
_GROUP: Final = re.compile(r"[0-9]++")
_WORD: Final = re.compile(r"\w")
_DIGITS_MIN, _DIGITS_MAX = 13, 19
_ISSUERS: Final = ("2", "3", "4", "5", "6")
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def replace_of(pattern: Pattern, action: Action, digest: Callable[[str], str]) -> Replace:
    """A function from a text to the same text with every match masked as `[email]`, hashed as `[email:…]`, or gone."""

    def shown(found: str) -> str:
        if action == "hash":
            return f"[{pattern}:{digest(found)}]"
        return f"[{pattern}]" if action == "mask" else ""

    if pattern == "card":
        return lambda text: _DIGITS.sub(lambda match: _without_cards(match, shown), text)
    if pattern == "email":
        return lambda text: _EMAIL.sub(lambda match: shown(match[0]), text) if "@" in text else text
    expression = _PHONE if pattern == "phone" else _SECRET_KEY
    return lambda text: expression.sub(lambda match: shown(match[0]), text)


def _without_cards(match: re.Match[str], shown: Callable[[str], str]) -> str:
    """Digits, with single spaces or hyphens between groups of three and more: a card is a row of whole groups that
    passes Luhn's check, and no part of a word."""
    run = match[0]
    if len(run) < _DIGITS_MIN:
        return run
    groups = [group.span() for group in _GROUP.finditer(run)]
    if _WORD.match(match.string[max(0, match.start() - 1) : match.start()]):
        groups = groups[1:]
    if _WORD.match(match.string[match.end() : match.end() + 1]):
        groups = groups[:-1]
    kept, copied, start = list[str](), 0, 0
    digits = _Digits(run, groups)
    while start < len(groups):
        end = digits.card_from(start)
        if end > start:
            kept += run[copied : groups[start][0]], shown(digits.between(start, end))
            copied = groups[end - 1][1]
        start = max(end, start + 1)
    return "".join(kept) + run[copied:]


class _Digits:
    """Groups of digits. Luhn's sum (ISO/IEC 7812-1, annex B) of any row of them costs one subtraction."""

    def __init__(self, run: str, groups: list[tuple[int, int]]) -> None:
        self._digits = "".join(run[start:end] for start, end in groups)
        self._starts = [0, *accumulate(end - start for start, end in groups)]
        values = [int(digit) for digit in self._digits]
        # Every second digit counts double; which ones depends on where the row ends.
        self._sums = [
            [0, *accumulate(_DOUBLED[v] if at % 2 == parity else v for at, v in enumerate(values))] for parity in (0, 1)
        ]

    def between(self, start: int, end: int) -> str:
        return self._digits[self._starts[start] : self._starts[end]]

    def card_from(self, start: int) -> int:
        """The group behind the card that begins with the group `start`; `start` if none does."""
        first = self._starts[start]
        if self._digits[first : first + 1] not in _ISSUERS:
            return start
        for end in range(start + 1, len(self._starts)):
            last = self._starts[end]
            if last - first > _DIGITS_MAX:
                break
            sums = self._sums[last % 2]
            if last - first >= _DIGITS_MIN and (sums[last] - sums[first]) % 10 == 0:
                return end
        return start
