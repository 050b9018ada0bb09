"""README's example, as it is pasted; and what README and the other pages point to."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PYTHON = ".venv/bin/python"

_EXAMPLE = re.compile(rf"```sh\n({re.escape(PYTHON)} - .*?)```\n```text\n(.*?)```", re.DOTALL)


def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    """The block that README offers for pasting runs in an empty directory, twice, and prints what stands below it."""
    found = _EXAMPLE.search(README.read_text("utf-8"))
    assert found, "README has no example in a block of sh, followed by its output in a block of text"
    pasted = found[1].replace(PYTHON, shlex.quote(sys.executable))
    for _ in range(2):
        done = subprocess.run(pasted, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, found[2], "")


def test_what_the_readme_names_is_there() -> None:
    """Each test and benchmark that README calls as a witness exists."""
    named = set(re.findall(r"`((?:tests|bench|src)/[\w/.]+)`", README.read_text("utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    """Each relative link of each page names a file, and a heading in it where it says so; no page is an orphan."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    dead: list[str] = []
    reached = {README}
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if ":" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            reached.add(target)
            if not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []
    assert sorted(str(page.relative_to(ROOT)) for page in pages if page not in reached) == []


def constants(source: str) -> list[str]:
    """The texts of a module, and the fixed parts of those that are filled in."""
    return [
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and type(node.value) is str
    ]


def test_messages_that_are_explained_are_said() -> None:
    """Each message in the tables of the pages on troubles is one that the source says, `…` aside."""
    page = "".join(
        (ROOT / "docs" / "howto" / name).read_text("utf-8") for name in ("troubleshoot.md", "host-sessions.md")
    )
    rows = re.findall(r"\| message \| .+\n.*\n((?:\|.*\n)+)", page)
    messages = [message for row in rows for message in re.findall(r"^\| `([^`]+)`", row, re.MULTILINE)]
    assert len(messages) > 8
    said = [text for file in (ROOT / "src").rglob("*.py") for text in constants(file.read_text("utf-8"))]
    pieces = {piece.strip(" ();,") for message in messages for piece in message.split("…")}
    assert sorted(piece for piece in pieces if not any(piece in text for text in said)) == []
