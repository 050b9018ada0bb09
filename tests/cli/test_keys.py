"""`adjourn keys`, against a database that is looked at behind its back."""

from __future__ import annotations

import asyncio
import json

import pytest

from adjourn.cli.store import opened
from adjourn.clock import SystemClock
from adjourn.errors import Unauthenticated
from adjourn.security.keys import Key
from adjourn.security.service import Keys
from adjourn.settings import default_settings
from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("database")


def check(secret: str) -> Key:
    """As a server would, on the database of the working directory."""

    async def ask() -> Key:
        async with opened(default_settings()) as database:
            return await Keys(database, SystemClock(), required=True).check(f"Bearer {secret}", "events:write")

    return asyncio.run(ask())


def test_the_secret_is_alone_on_standard_output(run: Run) -> None:
    """`KEY=$(adjourn keys create …)` holds the secret and nothing else, and a server takes it."""
    made = run("keys", "create", "--role", "writer", "--tenant", "acme", "--name", "ci")
    assert made.code == 0
    assert made.out.startswith("adj_")
    assert len(made.out.split()) == 1
    key = check(made.out.strip())
    assert (key.tenant, key.role, key.name) == ("acme", "writer", "ci")
    assert key.id in made.err
    assert made.out.strip() not in made.err


def test_a_revoked_key_is_refused(run: Run) -> None:
    """After revoke the key is not taken, and stays in the list with its time."""
    secret = run("keys", "create", "--role", "writer").out.strip()
    (listed,) = json.loads(run("keys", "list", "--json").out)
    assert listed["revoked_at"] is None
    assert run("keys", "revoke", listed["id"]).code == 0
    with pytest.raises(Unauthenticated):
        check(secret)
    (listed,) = json.loads(run("keys", "list", "--json").out)
    assert listed["revoked_at"] is not None


def test_the_list_never_shows_a_secret(run: Run) -> None:
    """Neither the columns nor the JSON hold anything of a secret; --tenant restricts them."""
    secrets = [run("keys", "create", "--role", "reader", "--tenant", t).out.strip() for t in ("a", "b")]
    columns, as_json = run("keys", "list").out, run("keys", "list", "--json").out
    assert not any(secret[4:] in text for secret in secrets for text in (columns, as_json))
    assert len(columns.splitlines()) == 3
    assert [key["tenant"] for key in json.loads(run("keys", "list", "--tenant", "b", "--json").out)] == ["b"]


def test_an_unknown_key_cannot_be_revoked(run: Run) -> None:
    """Revoking what is not there is an error, not a success."""
    done = run("keys", "revoke", "key_none")
    assert (done.code, done.out) == (2, "")
    assert "key_none" in done.err
