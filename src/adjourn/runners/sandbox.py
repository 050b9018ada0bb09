"""What a program that is run as an agent may see and use: the command that confines it, its limits, its environment.

Two ways: bubblewrap, with a root of its own that cannot be written to, no network, and its own process numbers; or
`keeper.py`, which sees to it that nothing outlives the program, and takes its network away where the kernel lets it.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

Isolation = Literal["auto", "bubblewrap", "none"]
Means = Literal["bubblewrap", "keeper"]

MB = 2**20
PATH = "/usr/local/bin:/usr/bin:/bin"
KEEPER = str(Path(__file__).with_name("keeper.py"))
PROBE_TIMEOUT_S = 20.0

HELD: Mapping[Means, Sequence[str]] = {
    "keeper": ("/bin/sh", "-c", 'read -r _ && exec "$@"', "adjourn"),
    "bubblewrap": ("/bin/sh", "-c", 'read -r _ && exec "$@" 3>&1 4>&1 >/dev/null', "adjourn"),
}
"""Waits for a line before it becomes what follows: until then its limits are set, from outside. On descriptor 3
bubblewrap says which process is the first of its namespace. It holds 0, 1 and 2 for as long as it lives, and leaves 4
to the program, which therefore is seen to close it."""

INSIDE = 'exec "$@" >&4 4>&-'

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
SYSTEM_FILES = (
    "/etc/alternatives", "/etc/ca-certificates", "/etc/group", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/passwd", "/etc/pki",
    "/etc/ssl", "/etc/timezone",
)  # fmt: skip
NETWORK_FILES = ("/etc/resolv.conf",)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one session's programs may use. None: no limit. Those without `cgroup` in their words bind each process."""

    memory_mb_max: int | None = 2_048
    """Of all together in a cgroup, else of each process (RLIMIT_DATA)."""
    processes_max: int | None = 256
    """In a cgroup, or under bubblewrap where the server is not root; else there is no such limit."""
    cpu_s_max: int | None = None
    """Of each process, over its whole life."""
    file_mb_max: int | None = 1_024
    """Of each file that is written."""
    open_files_max: int | None = 1_024
    """Of each process."""
    tmp_mb_max: int = 256
    """Of /tmp under bubblewrap, which is memory."""


def why_no_bubblewrap() -> str:
    """Empty where it works. Takes some ms: call it once, off the event loop."""
    found = shutil.which("bwrap")
    if found is None:
        return "bwrap is not installed (Debian: apt-get install bubblewrap)"
    try:
        os.close(os.pidfd_open(os.getpid()))
        command = [found, *_namespaces(network=False), *_roots(()), "--", "/bin/true"]
        tried = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False, env={"PATH": PATH})
    except (OSError, subprocess.SubprocessError) as error:
        return f"bwrap does not work here: {error}"
    if tried.returncode == 0:
        return ""
    return f"bwrap does not work here: {tried.stderr.decode('utf-8', 'replace').strip()[-500:]}"


def bubblewrap(
    command: Sequence[str], workspace: str, bounds: Bounds, *, network: bool, readable: Sequence[str]
) -> list[str]:
    """The command in a sandbox of its own."""
    tmp = ["--size", str(bounds.tmp_mb_max * MB), "--tmpfs", "/tmp"]
    inside = ["/bin/sh", "-c", INSIDE, "adjourn", *command]
    if bounds.processes_max is not None and os.geteuid() != 0:
        # Set in here, where only this sandbox's processes are counted; some shells say -p, others -u.
        counted = f'ulimit -u "$0" 2>/dev/null || ulimit -p "$0"; {INSIDE}'
        inside[2:4] = [counted, str(bounds.processes_max)]
    return [
        shutil.which("bwrap") or "bwrap",
        *_namespaces(network=network),
        *("--info-fd", "3"),
        *_roots((*SYSTEM_FILES, *(NETWORK_FILES if network else ()))),
        *tmp,
        *(word for path in _needed(command, readable) for word in ("--ro-bind", path, path)),
        *("--bind", workspace, workspace, "--chdir", workspace),
        *("--remount-ro", "/", "--"),
        *inside,
    ]


def keeper(command: Sequence[str], *, network: bool) -> list[str]:
    return [sys.executable, "-I", "-S", KEEPER, str(os.getpid()), "yes" if network else "no", *command]


def environment(given: Mapping[str, str], session_id: str, workspace: str, means: Means) -> dict[str, str]:
    """Nothing of the server's own: it holds secrets."""
    return {
        "PATH": PATH,
        "HOME": workspace,
        "TMPDIR": "/tmp" if means == "bubblewrap" else str(Path(workspace, ".tmp")),
        "LANG": "C.UTF-8",
        "ADJOURN_SESSION_ID": session_id,
        "ADJOURN_WORKSPACE": workspace,
        **given,
    }


def spawn(means: Means, command: Sequence[str], *, env: Mapping[str, str], cwd: str) -> subprocess.Popen[bytes]:
    """A held process, which gets nothing but its three pipes. Raises OSError."""
    return subprocess.Popen(
        [*HELD[means], *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


def confine(pid: int, bounds: Bounds, *, memory: bool) -> None:
    """Set the limits of a held process. Raises OSError."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: bounds.cpu_s_max,
        resource.RLIMIT_NOFILE: bounds.open_files_max,
        resource.RLIMIT_FSIZE: None if bounds.file_mb_max is None else bounds.file_mb_max * MB,
        # Not RLIMIT_AS: runtimes reserve far more addresses than they ever use.
        resource.RLIMIT_DATA: bounds.memory_mb_max * MB if memory and bounds.memory_mb_max is not None else None,
    }
    for limit, most in wanted.items():
        if most is not None:
            hard = resource.prlimit(pid, limit)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, limit, (most, most))


def _namespaces(*, network: bool) -> list[str]:
    names = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    # Root in here would be root of what is readable: nobody is not, and has no capabilities in its namespace either.
    user = ["--uid", "65534", "--gid", "65534"] if os.geteuid() == 0 else []
    return [
        *names,
        *([] if network else ["--unshare-net"]),
        *user,
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--hostname", "sandbox"),
    ]


def _roots(files: Sequence[str]) -> list[str]:
    words: list[str] = []
    for path in SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    words += (word for path in files for word in ("--ro-bind-try", path, path))
    return [*words, "--proc", "/proc", "--dev", "/dev"]


def _needed(command: Sequence[str], readable: Sequence[str]) -> list[str]:
    """What the administrator says, and the files that the command itself names. Those within a folder that is readable
    come with it: bound by themselves, a link among them, as the Python of a virtual environment is one, leads nowhere.
    """
    named = [word for word in command if os.path.isabs(word) and os.path.exists(word)]
    words = [*named, *(os.path.realpath(word) for word in named)]
    apart = (word for word in words if not any(Path(word).is_relative_to(folder) for folder in readable))
    return list(dict.fromkeys([*readable, *apart]))
