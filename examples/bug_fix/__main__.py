"""Ephemeral: one task, one turn, and the session is complete. An agent mends a repository whose tests fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.local_server import completion, connected

from adjourn.sdk.models_events import ToolCall, ToolResult

HERE = Path(__file__).parent


def main() -> None:
    repository = Path(tempfile.mkdtemp(), "repo")
    shutil.copytree(HERE / "repo", repository)
    with connected(HERE) as adjourn:
        session = adjourn.sessions.create(
            "ephemeral",
            runner="mender",
            name="Mend the basket",
            config={
                "model": "gpt-4o",
                "allowed_tools": ["checkout", "read_file", "run_tests", "edit_file"],
                "options": {"repository": str(HERE / "repo")},
            },
            limits={"max_budget_usd": "0.50", "turn_timeout_ms": 120_000},
        )
        with adjourn.sessions.stream(session.id, "A test fails. Find out why, and mend it.") as turn:
            for event in turn:
                match event.detail:
                    case ToolCall(name=name, arguments=arguments):
                        print(f"{name}({', '.join(str(value) for value in arguments.values())})")
                        if name == "edit_file":
                            apply(repository, **{key: str(value) for key, value in arguments.items()})
                    case ToolResult(output={"passed": True}):
                        print("  the tests pass")
                    case ToolResult(output={"passed": False}):
                        print("  the tests fail")
                    case _:
                        pass
            print(f"\n{turn.answer().text}")
        session = adjourn.sessions.get(session.id)
        used = session.usage
        print(f"{session.status}: {used.tool_calls} tool calls, {used.total_tokens:,} tokens, {session.cost_usd} USD")
        print(completion(adjourn, session))
    # The agent worked on a copy, in its sandbox. What it changed there was told, and is done here to ours.
    command = [sys.executable, "-B", "-m", "unittest", "-q"]
    done = subprocess.run(command, cwd=repository, stderr=subprocess.PIPE, text=True, check=False)
    print(f"in our repository: {done.stderr.split()[-1]}")
    shutil.rmtree(repository.parent)


def apply(repository: Path, path: str, old: str, new: str) -> None:
    file = repository / path
    file.write_text(file.read_text().replace(old, new))


main()
