"""Keeps a program where there is no bubblewrap: when it ends, or is to end, so does everything that it has started.

Run as `python -I -S keeper.py <server's pid> <yes|no: network> <command …>`; knows nothing of Adjourn and nothing
beyond the standard library: every session pays for its start. What the program starts cannot leave: orphans become
children of the keeper (PR_SET_CHILD_SUBREAPER), also after setsid. SIGTERM is handed to the program; SIGUSR1 kills
everything, and is what the kernel sends when the server dies (PR_SET_PDEATHSIG). Exits with the program's status,
128 + n after signal n, and not before all is gone. A program that kills its keeper gets away: use bubblewrap for what
you do not trust.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

CANNOT = 125
"""The exit status of a keeper that could not begin; the reason is on standard error."""

WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}


def main(server: int, network: bool, command: list[str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) or libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR1), 0, 0, 0):
        return refuse(f"cannot watch over the program: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != server:
        return refuse("the server has gone")
    if not network and (why := leave_network(libc)):
        return refuse(f"cannot take the network away: {why}; install bubblewrap, or allow it with network: true")
    program = os.fork()
    if program == 0:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os._exit(refuse(f"cannot start {command[0]}: {error.strerror}"))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # the program's end of a pipe is its alone: that it closes it must be seen
        os.dup2(nothing, standard)
    return keep(program)


def keep(program: int) -> int:
    while True:
        asked = signal.sigwait(WATCHED)
        if asked == signal.SIGTERM:
            send(program, signal.SIGTERM)
        elif asked == signal.SIGUSR1:
            kill_all()
            return 128 + signal.SIGKILL
        elif (status := reap(program)) is not None:
            kill_all()
            return 128 - status if status < 0 else status


def reap(program: int) -> int | None:
    """Bury who died; the program's exit code if that is among them."""
    found: int | None = None
    try:
        while (dead := os.waitpid(-1, os.WNOHANG))[0]:
            if dead[0] == program:
                found = os.waitstatus_to_exitcode(dead[1])
    except ChildProcessError:
        pass
    return found


def kill_all() -> None:
    """Until none is left: who loses its parent becomes a child of ours, and is found in the next round."""
    while True:
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(name))
    found = list(parents.get(root, ()))
    for pid in found:
        found += parents.get(pid, ())
    return found


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def leave_network(libc: ctypes.CDLL) -> str:
    """Into a network of its own, with nothing in it; why not, where that is not possible."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNET) == 0:
        return ""
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        return os.strerror(ctypes.get_errno())
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return ""


def refuse(why: str) -> int:
    os.write(2, f"{why}\n".encode())
    return CANNOT


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2] == "yes", sys.argv[3:]))
