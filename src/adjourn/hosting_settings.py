"""The settings of hosted sessions: what runs them, and the most that one may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from adjourn.setting import Count, Days, Headers, Line, Problem, SecretText, Section, given, named, short

RunnerType = Literal["echo", "command"]

# Of times too: thirty days in milliseconds are more than 31 bits hold.
Many = Annotated[int, Meta(ge=1, le=2**53, description=f"a whole number from 1 to {2**53}")]
UsdPositive = Annotated[float, Meta(gt=0, le=1e9, description="a number of USD above 0, at most 1000000000")]

ECHO = "echo"


class RunnerSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs the turns of sessions. Without a `name`, its type is its name."""

    name: str = ""
    type: RunnerType
    command: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    options: tuple[str, ...] | None = None
    env: Headers = msgspec.field(default_factory=dict[str, SecretText])
    readable: tuple[str, ...] = ()
    isolation: Literal["auto", "bubblewrap", "none"] = "auto"
    network: bool = False
    cgroup: tuple[str, ...] = ()
    memory_mb_max: Count | None = 2048
    processes_max: Count | None = 256
    cpu_s_max: Count | None = None
    file_mb_max: Count | None = 1024
    open_files_max: Count | None = 1024
    tmp_mb_max: Count = 256
    output_mb_max: Count = 64
    line_kb_max: Count = 1024
    workspace_mb_max: Count = 1024
    start_timeout_ms: Count = 10_000
    stop_grace_ms: Count = 2000
    starts_max: Count = 4

    def __post_init__(self) -> None:
        if not self.name:
            msgspec.structs.force_setattr(self, "name", self.type)


class TenantSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the sessions of one tenant may use, within the bounds of all. `max_idle_ms` to `turn_timeout_ms` are as in
    `HostingSettings`; a total is what all sessions may spend together."""

    name: str
    max_sessions: Count | None = None
    max_sessions_per_user: Count | None = None
    max_idle_ms: Many | None = None
    max_lifetime_ms: Many | None = None
    max_budget_usd: UsdPositive | None = None
    max_turns: Many | None = None
    max_tokens: Many | None = None
    turn_timeout_ms: Many | None = None
    total_budget_usd: UsdPositive | None = None
    total_budget_usd_per_user: UsdPositive | None = None


class HostingSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`max_idle_ms` to `turn_timeout_ms` are both the most that a session may ask for, and what one has that asks for
    nothing; None: no bound."""

    default_runner: str = ECHO
    workspaces: Line = ""
    max_sessions: Count = 10_000
    max_sessions_per_tenant: Count | None = None
    max_sessions_per_user: Count | None = None
    max_idle_ms: Many | None = None
    max_lifetime_ms: Many | None = None
    max_budget_usd: UsdPositive | None = None
    max_turns: Many | None = None
    max_tokens: Many | None = None
    turn_timeout_ms: Many | None = 600_000
    retention_days: Days = 30
    ephemeral_retention_ms: Many = 60_000
    queue_max: Count = 100
    archive_mb_max: Count = 64
    watch_folders: tuple[str, ...] = ()
    sweep_interval_ms: Count = 250
    runners: tuple[RunnerSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()

    def every_runner(self) -> tuple[RunnerSettings, ...]:
        """Those that are set, and `echo`, which is always there."""
        if any(runner.name == ECHO for runner in self.runners):
            return self.runners
        return (RunnerSettings(type="echo"), *self.runners)


def find_problems(hosting: HostingSettings) -> Iterator[Problem]:
    for rule in _RULES:
        yield from rule(hosting)


# --- the rules between settings ---------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_COMMAND = tuple(field for field in RunnerSettings.__struct_fields__ if field not in ("name", "type"))


def _names(hosting: HostingSettings) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for i, runner in enumerate(hosting.runners):
        path, name = f"hosting.runners[{i}].name", runner.name
        if not _NAME.fullmatch(name):
            yield Problem(path, f"{path} is {name[:70]!r}; give at most 64 letters, digits, '_', '-' and '.'")
        elif name in names:
            fact = f"{path} is {name!r}, as is that of hosting.runners[{names[name]}]"
            yield Problem(path, f"{fact}; give each its own name (without one, the type is the name)")
        elif name == ECHO and runner.type != ECHO:
            yield Problem(path, f"{path} is 'echo', the name of the runner that is always there; give it another")
        names.setdefault(name, i)


def _default(hosting: HostingSettings) -> Iterator[Problem]:
    known = [runner.name for runner in hosting.every_runner()]
    if hosting.default_runner not in known:
        fact = f"hosting.default_runner is {hosting.default_runner[:70]!r}, and there is no runner of that name"
        yield Problem("hosting.default_runner", f"{fact}; give one of {', '.join(map(repr, known))}")


def _runners(hosting: HostingSettings) -> Iterator[Problem]:
    for i, runner in enumerate(hosting.runners):
        path = f"hosting.runners[{i}]."
        if runner.type == "command":
            yield from _command(path, runner)
            continue
        for field in _OF_COMMAND:
            if given(runner, field):
                fact = f"{path}{field} has no effect on a runner of type {runner.type!r}"
                yield Problem(path + field, f"{fact}; remove it, or make the type 'command'")


def _command(path: str, runner: RunnerSettings) -> Iterator[Problem]:
    if not runner.command:
        fact = f"{path}command is missing, and a runner of type 'command' needs one"
        yield Problem(f"{path}command", f"{fact}; give the program and its arguments, as in [python3, agent.py]")
    elif not runner.command[0] or any("\0" in word for word in runner.command):
        fact = f"{path}command is no command: its program is empty, or a NUL is in it"
        yield Problem(f"{path}command", f"{fact}; give the program and its arguments, as in [python3, agent.py]")
    for field in ("readable", "cgroup"):
        yield from _absolute(path + field, getattr(runner, field))
    for name in runner.env:
        if not _VARIABLE.fullmatch(name):
            fact = f"{path}env has {named(name)!r}, which is no variable's name"
            yield Problem(f"{path}env.{named(name)}", f"{fact}; use letters, digits and '_'")


def _watch_folders(hosting: HostingSettings) -> Iterator[Problem]:
    return _absolute("hosting.watch_folders", hosting.watch_folders)


def _absolute(path: str, folders: tuple[str, ...]) -> Iterator[Problem]:
    for i, folder in enumerate(folders):
        if not folder.startswith("/") or "\0" in folder:
            fact = f"{path}[{i}] is {short(folder)}, which is no absolute path"
            yield Problem(f"{path}[{i}]", f"{fact}; give one that begins with '/'")


_BOUNDS = ("max_idle_ms", "max_lifetime_ms", "max_budget_usd", "max_turns", "max_tokens", "turn_timeout_ms")
_OF_ALL = {
    "max_sessions": ("max_sessions", "max_sessions_per_tenant"),
    **{name: (name,) for name in ("max_sessions_per_user", *_BOUNDS)},
}
"""The bounds of all tenants within which a tenant's own ones are."""


def _tenants(hosting: HostingSettings) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for i, tenant in enumerate(hosting.tenants):
        path = f"hosting.tenants[{i}]."
        if not _TENANT.fullmatch(tenant.name):
            fact = f"{path}name is {short(tenant.name)}, and no tenant may be called so"
            yield Problem(f"{path}name", f"{fact}; give 1 to 128 letters, digits, '_', '.' and '-'")
        elif tenant.name in names:
            fact = f"{path}name is {tenant.name!r}, as is that of hosting.tenants[{names[tenant.name]}]"
            yield Problem(f"{path}name", f"{fact}; give each tenant once")
        names.setdefault(tenant.name, i)
        for name, above in _OF_ALL.items():
            for other in above:
                yield from _within(f"{path}{name}", getattr(tenant, name), f"hosting.{other}", getattr(hosting, other))
        total, per_user = tenant.total_budget_usd, tenant.total_budget_usd_per_user
        yield from _within(f"{path}total_budget_usd_per_user", per_user, f"{path}total_budget_usd", total)


def _within(path: str, value: float | None, above: str, most: float | None) -> Iterator[Problem]:
    if value is not None and most is not None and value > most:
        shown = [int(each) if each == int(each) else each for each in (value, most)]
        fact = f"{path} is {shown[0]}, and has no effect above {above} ({shown[1]})"
        yield Problem(path, f"{fact}; lower it, or raise {above}")


_RULES = (_names, _default, _watch_folders, _runners, _tenants)
