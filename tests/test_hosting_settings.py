"""The rules between the settings of hosted sessions, and how a list of runners is read."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import fields

from adjourn.configfile import load, parse, show
from adjourn.errors import ConfigInvalid
from adjourn.runners.command import CommandSettings
from adjourn.runners.sandbox import Bounds
from adjourn.settings import HostingSettings, RunnerSettings, Settings


def parsed(*runners: Any, **hosting: Any) -> HostingSettings:
    return parse({"hosting": {"runners": runners, **hosting}}, "adjourn.yaml", {}).hosting


def refused(*runners: Any, **hosting: Any) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parsed(*runners, **hosting)
    return caught.value.message


def test_there_is_always_an_echo() -> None:
    """Without settings there is the runner echo and it is the default; with others it is still there, once."""
    assert [runner.name for runner in HostingSettings().every_runner()] == ["echo"]
    assert HostingSettings().default_runner == "echo"
    found = parsed({"name": "agent", "type": "command", "command": ["agent"]}, {"type": "echo"})
    assert [(runner.name, runner.type) for runner in found.every_runner()] == [("agent", "command"), ("echo", "echo")]
    alone = parsed({"name": "agent", "type": "command", "command": ["agent"]}, default_runner="agent")
    assert [runner.name for runner in alone.every_runner()] == ["echo", "agent"]
    assert alone.default_runner == "agent"


def test_an_unknown_setting_is_refused_with_what_was_meant() -> None:
    """In the section and in a runner, with the place and the line."""
    assert "unknown setting 'maxTurns' at hosting; did you mean 'max_turns'?" in refused(maxTurns=3)
    message = refused({"type": "command", "command": ["x"], "memory_mb": 5})
    assert "unknown setting 'memory_mb' at hosting.runners[0]; did you mean 'memory_mb_max'?" in message
    # What is particular to destinations is not so here.
    assert "unknown setting 'config' at hosting.runners[0]" in refused({"type": "echo", "config": {}})
    assert "hosting.runners[0].type is 'log'" in refused({"type": "log"})


def test_what_cannot_be_a_list_of_runners_is_refused() -> None:
    """Neither a list nor mappings, and those without a type: each with its place, and nothing that follows from it."""
    with pytest.raises(ConfigInvalid, match="give a list of mappings, one for each runner"):
        parse("hosting: {runners: 5}", "adjourn.yaml", {})
    assert "hosting.runners[0] is a value of type str; give a mapping with a type" in refused("agent")
    message = refused({"name": "agent", "command": ["x"]}, default_runner="agent")
    assert message == "hosting.runners[0].type is missing; give one of 'echo', 'command' (adjourn.yaml)"


def test_names_are_unique_and_the_default_exists() -> None:
    """A name for two, echo for another type, no name at all, and a default that is nobody's are refused."""
    command = {"type": "command", "command": ["x"]}
    assert "hosting.runners[1].name is 'command', as is that of hosting.runners[0]" in refused(command, command)
    assert "give it another" in refused({**command, "name": "echo"})
    assert "hosting.runners[0].name is 'a b'" in refused({**command, "name": "a b"})
    message = refused({**command, "name": "agent"}, default_runner="agnet")
    assert "hosting.default_runner is 'agnet'" in message
    assert "give one of 'echo', 'agent'" in message


def test_a_runner_has_what_its_type_needs_and_no_more() -> None:
    """A command without one, an empty program, a variable's name that is none, and settings of a command on an echo."""
    assert "hosting.runners[0].command is missing" in refused({"type": "command"})
    assert "its program is empty" in refused({"type": "command", "command": [""]})
    assert "is no variable's name" in refused({"type": "command", "command": ["x"], "env": {"A=B": "c"}})
    assert "hosting.runners[0].network has no effect on a runner of type 'echo'" in refused(
        {"type": "echo", "network": True}
    )


def test_folders_are_absolute() -> None:
    """Where the server runs is not where a session does: a relative path would mean something else there."""
    command = {"type": "command", "command": ["x"]}
    assert "hosting.runners[0].readable[1] is 'b', which is no absolute path" in refused(
        {**command, "readable": ["/a", "b"]}
    )
    assert "hosting.runners[0].cgroup[0] is" in refused({**command, "cgroup": ["adjourn"]})
    assert "hosting.watch_folders[0] is 'mail'" in refused(watch_folders=["mail"])
    assert parsed({**command, "readable": ["/a"]}, watch_folders=["/mail/{tenant}"]).watch_folders == (
        "/mail/{tenant}",
    )


def test_tenants_are_named_once_and_bounded_by_the_server() -> None:
    """A name that is none, missing or there twice, and a bound that the server's would undo, are refused with the
    place; a list of tenants is read as that of runners is."""
    acme = {"name": "acme", "max_turns": 5, "total_budget_usd": 10, "total_budget_usd_per_user": 10}
    (found,) = parsed(tenants=[acme], max_turns=5).tenants
    assert (found.name, found.max_turns, found.total_budget_usd) == ("acme", 5, 10)
    assert "hosting.tenants[1].name is 'acme', as is that of hosting.tenants[0]" in refused(tenants=[acme, acme])
    assert "no tenant may be called so" in refused(tenants=[{"name": "a/b"}])
    assert "hosting.tenants[0].name is missing; give text" in refused(tenants=[{"max_turns": 5}])
    assert "hosting.tenants[0] is a value of type str; give a mapping with a name" in refused(tenants=["acme"])
    assert "did you mean 'max_turns'?" in refused(tenants=[{"name": "acme", "maxTurns": 5}])
    assert "hosting.tenants[0].max_turns is 5, and has no effect above hosting.max_turns (4); lower it" in refused(
        tenants=[acme], max_turns=4
    )
    most = "hosting.tenants[0].max_sessions is 9, and has no effect above hosting.max_sessions_per_tenant (8)"
    assert most in refused(tenants=[{"name": "acme", "max_sessions": 9}], max_sessions_per_tenant=8)
    assert "has no effect above hosting.tenants[0].total_budget_usd (10)" in refused(
        tenants=[{**acme, "total_budget_usd_per_user": 11}]
    )
    assert "hosting.tenants[0].total_budget_usd is 0" in refused(tenants=[{"name": "acme", "total_budget_usd": 0}])


def test_bounds_are_checked() -> None:
    """Zero, less, and infinite are refused; a lifetime may be years."""
    for bad in ({"max_turns": 0}, {"max_budget_usd": 0}, {"max_budget_usd": float("inf")}, {"turn_timeout_ms": -1}):
        assert f"hosting.{next(iter(bad))} is" in refused(**bad)
    assert parsed(max_lifetime_ms=10 * 365 * 86_400_000, turn_timeout_ms=None).max_lifetime_ms == 315_360_000_000


def test_runners_come_from_the_environment_too() -> None:
    """A variable that gives the list replaces that of the file; destinations beside it are untouched."""
    text = "[{name: agent, type: command, command: [python3, agent.py], env: {API_KEY: '${TOKEN}'}}]"
    environ = {"ADJOURN_HOSTING__RUNNERS": text, "TOKEN": "hidden", "ADJOURN_HOSTING__MAX_TURNS": "7"}
    loaded = load(environ=environ, overrides={"routing.destinations": [{"type": "logfile", "log_path": "x"}]})
    (runner,) = loaded.hosting.runners
    assert (runner.name, runner.command, loaded.hosting.max_turns) == ("agent", ("python3", "agent.py"), 7)
    assert [one.name for one in loaded.routing.destinations] == ["logfile"]


def test_what_is_shown_can_be_read_again_and_hides_the_environment_of_a_program() -> None:
    """`config show` has the section; values of `env` are masked, whether they are references or stand there."""
    settings = Settings(
        hosting=HostingSettings(
            max_budget_usd=2.5, runners=(RunnerSettings(type="command", command=("x",), env={"API_KEY": "hidden"}),)
        )
    )
    shown = show(settings)
    assert "hidden" not in shown
    again = parse(shown, "shown.yaml", {}).hosting
    assert (again.max_budget_usd, again.runners[0].command, again.turn_timeout_ms) == (2.5, ("x",), 600_000)


def test_workspaces_are_beside_the_data() -> None:
    """Unless a folder is named for them."""
    assert Settings(data_dir="there").workspaces_dir == "there/workspaces"
    assert Settings(hosting=HostingSettings(workspaces="/w")).workspaces_dir == "/w"


def test_a_runner_s_settings_are_those_that_it_takes() -> None:
    """By the same names and with the same defaults, so that nothing is lost between the file and the runner."""
    given = {field.name: field.default for field in fields(RunnerSettings) if field.name not in ("type", "env")}
    taken = {field.name: field.default for kind in (CommandSettings, Bounds) for field in fields(kind)}
    del taken["bounds"], taken["env"]
    assert given == {**taken, "name": "", "command": ()}
