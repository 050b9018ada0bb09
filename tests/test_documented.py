"""The reader of reference pages."""

from __future__ import annotations

from tests.documented import differences, rows

PAGE = """\
# Metrics

| name | type |
| --- | --- |
| `a_total` | counter, `tenant` |
| `b`, `c` | one \\| other |

```
| `not_this` | in code |
```

## HTTP

### `d`

| `e` | x |

## Other

| `f` | y |
"""


def test_names_come_from_first_cells_and_headings() -> None:
    """Names in later cells, prose and fenced code are not documented names."""
    assert set(rows(PAGE)) == {"a_total", "b", "c", "d", "e", "f"}
    assert rows(PAGE)["b"] == ("`b`, `c`", "one | other")


def test_a_section_ends_at_the_next_heading_of_its_level() -> None:
    """A section holds its sub-headings, and nothing of the section behind it."""
    assert set(rows(PAGE, section="HTTP")) == {"d", "e"}
    assert rows(PAGE, section="None such") == {}


def test_differences_name_both_sides() -> None:
    """What only the code has and what only the page has are told apart."""
    both = differences(["a", "b"], ["b", "c"], page="metrics.md")
    assert both == [
        "`a` is registered and not documented: add it to docs/reference/metrics.md",
        "`c` is documented and not registered: take it out of docs/reference/metrics.md",
    ]
    assert differences(["a"], ["a"], page="metrics.md") == []
