"""Makes the synchronous client from the asynchronous one, so that the two cannot differ.

`python -m adjourn.sdk.generate` writes `_sync.py`; with `--check` it only compares. The rules are a list of words; a
word of the asynchronous kind that none of them covers is an error, not a surprise at run time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, TARGET = HERE / "_async.py", HERE / "_sync.py"
USAGE = "usage: python -m adjourn.sdk.generate [--check]"

_OPENING = '"""The synchronous client. Generated from _async.py by `python -m adjourn.sdk.generate`: edit that file."""'
_RULES = (
    (r'\A""".*?"""', _OPENING),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Client|Sessions|Watch|Beat)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\basyncio\b", "time"),
)
_IMPORTS = re.compile(r"^(?:import \w+\n)+", re.MULTILINE)
_LEFT_OVER = re.compile(r"\b\w*(?:async|await)\w*\b", re.IGNORECASE)


def unasync(source: str) -> str:
    """The same client without `async`. Raises ValueError if something asynchronous is left."""
    text = source
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    text = _IMPORTS.sub(lambda found: "".join(sorted(found[0].splitlines(keepends=True))), text)
    if left := _LEFT_OVER.search(text.removeprefix(_OPENING)):
        raise ValueError(f"{left[0]!r} of {SOURCE.name} has no synchronous form; add a rule to {Path(__file__).name}")
    return text


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 where the check fails, or 2 for arguments that it does not know."""
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    wanted = unasync(SOURCE.read_text(encoding="utf-8")).encode()
    if not arguments:
        TARGET.write_bytes(wanted)
    elif not TARGET.exists() or TARGET.read_bytes() != wanted:
        sys.stderr.write(f"{TARGET} is not what {SOURCE.name} makes; run: python -m adjourn.sdk.generate\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
