"""Pre-forking servers: a runtime made, and used, before the fork works in every child."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.faults.rigs import IMPORTS, assert_exact, audited, ended, mapping, settings_of

from adjourn.runtime import Runtime
from adjourn.testing.account import logged
from adjourn.testing.faults import run_python

PREFORKED = """
runtime = adjourn.Runtime(settings)
used, ending = sys.argv[2:4]
said = [f"parent-{n}" for n in range(200)] if used == "used" else []
for session_id in said:
    runtime.capture({"session": {"session_id": session_id}})
stop = threading.Event()
def load():
    for number in itertools.count():
        if stop.is_set():
            return
        said.append(f"load-{number}")
        runtime.capture({"session": {"session_id": f"load-{number}"}})
        time.sleep(0.0005)
if used == "used":
    runtime.drain()
    loading = threading.Thread(target=load)
    loading.start()
    time.sleep(0.05)
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        def burst(thread):
            for number in range(150):
                runtime.capture({"session": {"session_id": f"{child}-{thread}-{number}"}})
                time.sleep(0.002)
        threads = [threading.Thread(target=burst, args=(n,)) for n in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        if ending == "killed":
            os._exit(0)
        runtime.stop()
        os._exit(0)
    children.append(pid)
if used == "used":
    time.sleep(0.1)
    stop.set()
    loading.join()
# The parent's last connection closes while the children write: it must not take their log away.
runtime.stop()
codes = [os.waitpid(pid, 0)[1] for pid in children]
print(json.dumps({"codes": codes, "said": said}), flush=True)
"""


@pytest.mark.parametrize("used", ["unused", "used"])
@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_four_children_capture_at_once_and_all_arrives_once(tmp_path: Path, used: str, ending: str) -> None:
    """Children of one runtime, forked while its threads capture and its database is open, lose and double nothing."""
    mapped = mapping(tmp_path)
    process = run_python(IMPORTS + PREFORKED, json.dumps(mapped), used, ending)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the parent died"
        result = json.loads(line)
    finally:
        ended(process)
    assert result["codes"] == [0] * 4
    captured = [*result["said"], *(f"{c}-{t}-{n}" for c in range(4) for t in range(2) for n in range(150))]
    with Runtime(settings_of(mapped)) as runtime:
        runtime.start()
        runtime.drain()
        accounts = runtime.call(lambda node: audited(node, captured, f"sqlite:///{tmp_path}/out.db"))
    assert_exact(accounts)
    assert accounts[0].found == len(captured)


ASKED = """
os.environ["ADJOURN_DATA_DIR"] = settings.data_dir
made = adjourn.Runtime(settings)
made.stop()
def ask():
    while True:
        adjourn.set_runtime(made)
        adjourn.get_runtime()
for _ in range(2):
    threading.Thread(target=ask, daemon=True).start()
before = adjourn.Runtime(settings)
receipt = before.capture({"session": {"session_id": "before"}})
hung = 0
for child in range(15):
    pid = os.fork()
    if pid == 0:
        adjourn.set_runtime(before)
        adjourn.get_runtime().capture({"session": {"session_id": f"child-{child}"}})
        try:
            receipt.result(0.001 if child else 20)
        except adjourn.AdjournError as error:
            os._exit("parent" not in str(error))
        except TimeoutError:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    if ended[0] == 0:
        os.kill(pid, signal.SIGKILL)
    hung += ended != (pid, 0)
print(json.dumps([hung, receipt.result(20).status]), flush=True)
os._exit(0)
"""


def test_a_fork_while_threads_ask_for_the_runtime_hangs_no_child(tmp_path: Path) -> None:
    """Locks that other threads held at the fork stop no child, and a receipt from before it raises there at once, or
    tells what was known; in the parent it is settled."""
    mapped = mapping(tmp_path)
    process = run_python(IMPORTS + ASKED, json.dumps(mapped))
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == [0, "accepted"]
    finally:
        ended(process)
    with Runtime(settings_of(mapped)) as runtime:
        runtime.start()
        runtime.drain()
        assert sorted(runtime.call(logged)) == sorted(["before", *(f"child-{n}" for n in range(15))])
