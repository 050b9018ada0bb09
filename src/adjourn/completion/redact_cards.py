"""Payment cards in text: which rows of digits are one. In time proportional to the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

SPACES: Final = " \u00a0\u2000-\u200a\u202f\u205f\u3000"
DASHES: Final = "\u2010-\u2015\u2212-"
"""For a character class, at its end."""

_DIGITS: Final = re.compile(rf"[0-9]{{3,}}+(?:[{SPACES}.{DASHES}][0-9]{{3,}}+)*+")
_GROUP: Final = re.compile(r"[0-9]++")
_WORD: Final = re.compile(r"\w")
_FRACTION: Final = re.compile(r"[0-9]\.\Z|(?<![0-9])0,\Z")
"""What stands before its digits. A comma behind other numbers is mostly that of a table's row."""
_UUID: Final = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Fa-f])")
_UUID_LENGTH: Final = 36
_DIGITS_MIN, _DIGITS_MAX = 13, 19
_DOTTED: Final = ((4, 6, 4), (4, 6, 5))
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

_LENGTHS: Final[dict[str, Sequence[int]]] = {
    **dict.fromkeys(("22", "23", "24", "25", "26", "27"), range(16, 20)),
    **dict.fromkeys(("30", "36", "38", "39"), range(14, 20)),
    **dict.fromkeys(("34", "37"), (15,)),
    "35": range(16, 20),
    **dict.fromkeys(map(str, range(40, 50)), (13, 16, 19)),
    **dict.fromkeys(map(str, range(51, 56)), (16,)),
    **dict.fromkeys(("50", *map(str, range(56, 70))), range(13, 20)),
}
"""By the first two digits, how many a card has: Mastercard and Mir, Diners, American Express, JCB, Visa, Mastercard,
Maestro and others. What begins with 20 is mostly a date."""


def without_cards(text: str, shown: Callable[[str], str]) -> str:
    """A card is a row of whole groups of digits, with single spaces, dashes or dots between them, that has an issuer's
    beginning and length and passes Luhn's check. It is no part of a word, a fraction or a UUID. With dots, which
    numbers have too, it is written in fours, or as American Express and Diners write it."""
    return _DIGITS.sub(lambda match: _in_run(match, shown), text)


def _in_run(match: re.Match[str], shown: Callable[[str], str]) -> str:
    run, text = match[0], match.string
    if len(run) < _DIGITS_MIN:
        return run
    groups = [group.span() for group in _GROUP.finditer(run)]
    before = text[max(0, match.start() - 3) : match.start()]
    if _WORD.match(before[-1:]) or _FRACTION.search(before):
        groups = groups[1:]
    if _WORD.match(text[match.end() : match.end() + 1]):
        groups = groups[:-1]
    kept, copied, start = list[str](), 0, 0
    digits = _Digits(run, groups)
    while start < len(groups):
        end = digits.card_from(start)
        if end > start and _in_uuid(text, match.start() + groups[start][0], match.start() + groups[end - 1][1]):
            end = start
        if end > start:
            kept += run[copied : groups[start][0]], shown(digits.between(start, end))
            copied = groups[end - 1][1]
        start = max(end, start + 1)
    return "".join(kept) + run[copied:]


def _in_uuid(text: str, start: int, end: int) -> bool:
    around = max(0, end - _UUID_LENGTH - 1)
    window = text[around : start + _UUID_LENGTH + 1]
    return any(found.start() + around <= start and end <= found.end() + around for found in _UUID.finditer(window))


class _Digits:
    """Groups of digits. Luhn's sum (ISO/IEC 7812-1, annex B) of any row of them costs one subtraction."""

    def __init__(self, run: str, groups: list[tuple[int, int]]) -> None:
        self._digits = "".join(run[start:end] for start, end in groups)
        self._starts = [0, *accumulate(end - start for start, end in groups)]
        self._dotted = [run[start - 1 : start] == "." for start, _ in groups] + [False]
        """Whether a dot stands before each group."""
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
        lengths = _LENGTHS.get(self._digits[first : first + 2], ())
        if not lengths or self._dotted[start]:
            return start
        for end in range(start + 1, len(self._starts)):
            last = self._starts[end]
            if last - first > _DIGITS_MAX:
                break
            sums = self._sums[last % 2]
            if last - first in lengths and (sums[last] - sums[first]) % 10 == 0 and self._may_stand(start, end):
                return end
        return start

    def _may_stand(self, start: int, end: int) -> bool:
        if self._dotted[end]:
            return False
        if not any(self._dotted[start + 1 : end]):
            return True
        sizes = tuple(self._starts[at + 1] - self._starts[at] for at in range(start, end))
        return sizes in _DOTTED or (sizes[-1] <= 4 and all(size == 4 for size in sizes[:-1]))
