"""Reads reference pages, so that tests can compare what is registered with what is documented.

A page documents a name where it stands in backticks in the first cell of a table's row, or in a heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"

_HEADING = re.compile(r"(#{1,6})\s+(.*)")
_CODE = re.compile(r"`([^`]+)`")


def documented_rows(page: Path | str, *, section: str | None = None) -> dict[str, tuple[str, ...]]:
    """Each name in the first cell of a table's row, with all cells of that row; a heading's names with no cells.

    `page` is a path, or a name under docs/reference. `section` restricts to what stands under the heading of that text,
    its sub-headings included.
    """
    path = REFERENCE / page if isinstance(page, str) else page
    return rows(path.read_text(encoding="utf-8"), section=section)


def documented_names(page: Path | str, *, section: str | None = None) -> set[str]:
    """The names alone: `documented_names("errors.md") == {"event_invalid", …}`."""
    return set(documented_rows(page, section=section))


def differences(registered: Iterable[str], documented: Iterable[str], *, page: str) -> list[str]:
    """What is missing on either side, as sentences that say what to do; empty when both agree."""
    code, text = set(registered), set(documented)
    return [
        *(
            f"`{name}` is registered and not documented: add it to docs/reference/{page}"
            for name in sorted(code - text)
        ),
        *(
            f"`{name}` is documented and not registered: take it out of docs/reference/{page}"
            for name in sorted(text - code)
        ),
    ]


def rows(text: str, *, section: str | None = None) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in _prose(text, section):
        if heading := _HEADING.match(line):
            found.update((name, ()) for name in _CODE.findall(heading[2]))
        elif line.startswith("|"):
            cells = tuple(cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            found.update((name, cells) for name in _CODE.findall(cells[0]))
    return found


def _prose(text: str, section: str | None) -> Iterator[str]:
    """The lines outside fenced code, and inside the section if one is named."""
    fenced, level = False, 0
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if fenced:
            continue
        if section is not None and (heading := _HEADING.match(line)):
            if heading[2].strip() == section:
                level = len(heading[1])
            elif level and len(heading[1]) <= level:
                level = 0
        if section is None or level:
            yield line
