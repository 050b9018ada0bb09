"""What redaction finds in text: e-mail addresses, telephone numbers, payment cards, IP addresses, secret keys.

A text is searched in time proportional to its length, whatever a sender writes into it: repetitions are possessive or
short. docs/howto/redact.md says what each pattern takes for a match.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from adjourn.completion.redact_cards import DASHES, SPACES, without_cards
from adjourn.redaction_rules import Action, Pattern

Replace = Callable[[str], str]

_EMAIL: Final = re.compile(
    r"""(?:(?<![\w.%+-])(?<![\w.%+-]')[\w.%+-]++(?:'[\w.%+-]++)*+ | "[^"\\\r\n]{1,64}")
    @([\w-]++(?:\.[\w-]++)++ | \[[0-9A-Fa-f:.]{3,45}\])""",
    re.VERBOSE,
)
# As it stands in a URL, ann%2Btag%40example.com: other escapes before it are not part of it.
_EMAIL_ESCAPED: Final = re.compile(
    r"""(?:(?<![\w.+%-]) | (?<=%[013-9A-Fa-f][0-9A-Fa-f]) | (?<=%2[^Bb]))
    (?:[\w.+-]|%2[Bb])++%40([\w-]++(?:\.[\w-]++)++)""",
    re.VERBOSE,
)
_VERSION: Final = re.compile(r"[0-9.]++")
_GAP: Final = f"[{SPACES}.{DASHES}]"
_SPACE: Final = f"[{SPACES}{DASHES}]"
# Not every row of digits, of which ids are made: each line is one way to write a number.
_PHONE: Final = re.compile(
    rf"""(?<![\w+])\+\d(?:[()/{SPACES}.{DASHES}]{{0,2}}\d){{6,14}}(?!\d)      # +49 (0)30/1234567
    |(?<![\w{DASHES}])(?<!\d[.,:/])(?:
       (?:1{_GAP})?(?:\(\d{{3}}\){_GAP}?|\d{{3}}[/{SPACES}.{DASHES}])\d{{3}}{_GAP}\d{{4}}    # 1-415-555-0132
      |00(?=\d{{0,4}}[(/{SPACES}{DASHES}]){_SPACE}?[1-9](?:[()/{SPACES}{DASHES}]{{0,2}}\d){{7,13}}  # 0049 30 1234567
      |\(0\d{{1,4}}\){_SPACE}?\d{{3,8}}(?:{_SPACE}\d{{2,5}}){{0,3}}                          # (030) 1234567
      |0[1-9]\d{{1,3}}(?:[/{SPACES}{DASHES}]\d{{6,8}}|{_SPACE}\d{{3,4}}{_SPACE}\d{{3,4}})    # 020 7946 0958
      |0[1-9](?:{_GAP}\d\d){{4}}                                                             # 06 12 34 56 78
    )(?:\ ?(?:x|ext\.?)\ ?\d{{1,6}})?(?![\w{DASHES}]|[.,:/]\d)""",
    re.VERBOSE,
)
_IP: Final = re.compile(r"[0-9A-Fa-f]{0,4}+(?:[:.][0-9A-Fa-f]{0,4}+){2,}+")
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
_DIGIT: Final = re.compile(r"[0-9]")
_WORD: Final = re.compile(r"\w")


def replace_of(pattern: Pattern, action: Action, digest: Callable[[str], str]) -> Replace:
    """A function from a text to the same text with every match masked as `[email]`, hashed as `[email:…]`, or gone."""

    def shown(found: str) -> str:
        if action == "hash":
            return f"[{pattern}:{digest(found)}]"
        return f"[{pattern}]" if action == "mask" else ""

    if pattern == "card":
        return lambda text: without_cards(text, shown)
    if pattern == "email":
        return lambda text: _without_emails(text, shown)
    if pattern == "ip":
        return lambda text: _IP.sub(lambda match: _without_ip(match, shown), text)
    expression = _PHONE if pattern == "phone" else _SECRET_KEY
    return lambda text: expression.sub(lambda match: shown(match[0]), text)


def _without_emails(text: str, shown: Callable[[str], str]) -> str:
    if "@" in text:
        # What ends in a version is a package, react@18.2.0; four numbers are an address.
        text = _EMAIL.sub(
            lambda match: match[0] if _VERSION.fullmatch(match[1]) and match[1].count(".") != 3 else shown(match[0]),
            text,
        )
    if "%40" in text:
        text = _EMAIL_ESCAPED.sub(lambda match: shown(unquote(match[0])), text)
    return text


def _without_ip(match: re.Match[str], shown: Callable[[str], str]) -> str:
    """An IPv4 or IPv6 address, perhaps behind `name:` and before `:port` or the end of a sentence. Times, MAC addresses
    and names with colons are none; an IPv6 address without a digit could be any of them."""
    run, text = match[0], match.string
    start, end = 0, len(run.rstrip("."))
    if _WORD.match(text[max(0, match.start() - 1) : match.start()]):  # the end of a name, as in `remote:`
        start = run.find(":") + 1 or end
    elif run.startswith(".."):
        start = len(run) - len(run.lstrip("."))
    if end == len(run) and _WORD.match(text[match.end() : match.end() + 1]):
        end = max(start, run.rfind(":"))
    found = run[start:end]
    head, _, without_name = found.partition(":")
    without_port, _, port = found.rpartition(":")
    for part, before in (
        (found, ""),
        (without_port if not port or port.isdecimal() else "", ""),
        (without_name, head + ":"),
    ):
        if (address := _address(part)) is not None:
            return run[:start] + before + shown(address) + run[start + len(before) + len(part) :]
    pieces = (piece if (address := _address(piece)) is None else shown(address) for piece in found.split(":"))
    return run[:start] + ":".join(pieces) + run[start + len(found) :]


def _address(text: str) -> str | None:
    """In its shortest form; None: it is none."""
    from ipaddress import ip_address  # here: it takes a millisecond, and few settings have the pattern

    if text.count(".") != 3 and (text.count(":") < 2 or not _DIGIT.search(text)):
        return None
    try:
        return ip_address(text).compressed
    except ValueError:
        return None
