"""An agent that mends a repository whose tests fail. A script takes the place of the model; the rest is real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from adjourn.integrations.agent_program import Failed, Turn, serve

REPO = Path(os.environ["ADJOURN_WORKSPACE"], "repo")


# --- its tools -------------------------------------------------------------------------------------------------------


def checkout(source: str) -> list[str]:
    """A copy in the workspace, which is all that the agent may write to."""
    shutil.copytree(source, REPO, ignore=shutil.ignore_patterns("__pycache__"))
    return sorted(path.name for path in REPO.iterdir())


def run_tests() -> dict[str, Any]:
    command = [sys.executable, "-B", "-m", "unittest"]
    done = subprocess.run(command, cwd=REPO, stderr=subprocess.PIPE, text=True, check=False)
    return {"passed": done.returncode == 0, "output": done.stderr}


def read_file(path: str) -> str:
    return (REPO / path).read_text()


def edit_file(path: str, old: str, new: str) -> str:
    text = read_file(path)
    if text.count(old) != 1:
        raise ValueError(f"{old!r} stands {text.count(old)} times in {path}")
    (REPO / path).write_text(text.replace(old, new))
    return f"{path} is changed"


TOOLS = {tool.__name__: tool for tool in (checkout, run_tests, read_file, edit_file)}


# --- its turn --------------------------------------------------------------------------------------------------------


def answer(turn: Turn) -> str:
    def use(name: str, **arguments: str) -> Any:
        """What a model would have asked for, with the tokens that asking costs."""
        if name not in turn.session["allowed_tools"]:
            raise Failed("tool_not_allowed", f"{name} is not among the session's allowed_tools")
        turn.usage(input_tokens=1_200, output_tokens=60)
        call = turn.tool_call(name, arguments)
        try:
            output = TOOLS[name](**arguments)
        except (OSError, ValueError) as error:
            turn.tool_result(call, str(error), is_error=True)
            raise Failed("tool_failed", f"{name}: {error}") from error
        turn.tool_result(call, output)
        return output

    use("checkout", source=turn.options["repository"])
    tests = use("run_tests")
    if tests["passed"]:
        return "All tests pass; there is nothing to mend."
    test = re.findall(r'File ".*/(\w+\.py)"', tests["output"])[-1]
    module = re.findall(r"^from (\w+) import", use("read_file", path=test), re.MULTILINE)[-1] + ".py"
    if "* discount_percent // 100" not in use("read_file", path=module):
        raise Failed("not_understood", f"the script does not know what is wrong with {module}")
    use("edit_file", path=module, old="* discount_percent // 100", new="* (100 - discount_percent) // 100")
    if not use("run_tests")["passed"]:
        raise Failed("not_mended", "the tests fail still")
    return f"{module} took the discount for the price. It is mended, and all tests pass."


serve(answer)
