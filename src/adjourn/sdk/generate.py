"""Makes the synchronous client from the asynchronous one, so that the two cannot differ.

`python -m adjourn.sdk.generate` writes a `_sync*.py` for each `_async*.py`; with `--check` it only compares.
The rules are a list of words; a word of the asynchronous kind that none of them covers is an error, not a surprise at
run time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
USAGE = "usage: python -m adjourn.sdk.generate [--check]"

_OPENING = '"""The synchronous client. Generated from {} by `python -m adjourn.sdk.generate`: edit that file."""'
_RULES = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bfor (\w+) in ([\w.]+):\n +yield \1\n", r"yield from \2\n"),  # which a coroutine cannot
    (r"\bAsync(Client|Sessions|Watch|Beat|Wire|Events|Turn|Hosted|Generator|Iterator)\b", r"\1"),
    (r"\b_async(_\w+)?\b", r"_sync\1"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\b(?:a(next|close|read)\b|a(iter_lines)\b)", r"\1\2"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\basyncio\b", "time"),
)
_PLAIN_IMPORTS = re.compile(r"^(?:import \w+\n)+", re.MULTILINE)
_IMPORTS = re.compile(r"^(?:from [\w.]+ import (?:\([^)]*\)|[^\n(]+)\n)+", re.MULTILINE)
_IMPORT = re.compile(r"from ([\w.]+) import (?:\([^)]*\)|[^\n(]+)\n")
_LEFT_OVER = re.compile(r"\b\w*(?:async|await)\w*\b", re.IGNORECASE)


def unasync(source: str, name: str = "_async.py") -> str:
    """The same without `async`. Raises ValueError if something asynchronous is left."""
    opening = _OPENING.format(name)
    text = re.sub(r'\A""".*?"""', "", source, flags=re.DOTALL)
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    text = _PLAIN_IMPORTS.sub(lambda found: "".join(sorted(found[0].splitlines(keepends=True))), text)
    text = _IMPORTS.sub(lambda found: "".join(_sorted_imports(found[0])), text)
    if left := _LEFT_OVER.search(text):
        raise ValueError(f"{left[0]!r} of {name} has no synchronous form; add a rule to {Path(__file__).name}")
    return opening + text


def _sorted_imports(block: str) -> list[str]:
    """As ruff has them: by module, those of one module as they were."""
    return [found[0] for found in sorted(_IMPORT.finditer(block), key=lambda found: found[1])]


def wanted(folder: Path = HERE) -> dict[Path, bytes]:
    """Each file that is to stand there, and what is to stand in it."""
    return {
        source.with_name(source.name.replace("_async", "_sync")): unasync(
            source.read_text(encoding="utf-8"), source.name
        ).encode()
        for source in sorted(folder.glob("_async*.py"))
    }


def main(arguments: Sequence[str], folder: Path = HERE) -> int:
    """The exit code: 0, or 1 where the check fails, or 2 for arguments that it does not know."""
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    files = wanted(folder)
    strays = set(folder.glob("_sync*.py")) - set(files)
    for target, text in files.items():
        if not arguments:
            target.write_bytes(text)
        elif not target.exists() or target.read_bytes() != text:
            sys.stderr.write(f"{target} is not what its source makes; run: python -m adjourn.sdk.generate\n")
            return 1
    for stray in strays:
        sys.stderr.write(f"{stray} has no source any more; remove it\n")
    return 1 if strays else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
