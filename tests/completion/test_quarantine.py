"""What is kept in quarantine, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.databases.rigs import KINDS, DatabaseRig, opened

from adjourn.completion import quarantine
from adjourn.completion.quarantine import Quarantined, State, quarantine_id
from adjourn.databases.laned import LanedDatabase
from adjourn.errors import NotFound


def entry(body: bytes, *, tenant: str = "acme", code: str = "type_invalid", received_ms: int = 1_000) -> Quarantined:
    return Quarantined(
        id=quarantine_id(tenant, code, body),
        tenant=tenant,
        received_ms=received_ms,
        code=code,
        path="usage.input_tokens",
        message="no; do this",
        source="http",
        state="held",
        body=body,
    )


@asynccontextmanager
async def database(kind: str, folder: Path) -> AsyncGenerator[LanedDatabase]:
    async with opened(DatabaseRig(kind, folder).connect()) as connected:
        yield connected


async def ids(
    db: LanedDatabase, tenant: str | None, *, state: State | None = "held", before: str = "", limit: int = 100
) -> list[str]:
    found = await db.read(quarantine.select, tenant, state=state, before=before, limit=limit)
    return [each.id for each in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_comes_back_byte_for_byte(kind: str, tmp_path: Path) -> None:
    """Bytes of any kind, none at all and a megabyte of them are kept whole, with all that is said of them."""
    bodies = [b"", bytes(range(256)), b"\x00" * 10, b"\xff\xfe", b"x" * 1_000_000, '{"a":"é\u2028"}'.encode()]

    async def main() -> None:
        async with database(kind, tmp_path) as db:
            kept = [entry(body) for body in bodies]
            await db.write(quarantine.keep, kept)
            for one in kept:
                assert await db.read(quarantine.show, "acme", one.id) == one
            assert await db.read(quarantine.held) == len(bodies)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_is_refused_again_is_kept_once_as_it_first_was(kind: str, tmp_path: Path) -> None:
    """The same body for the same reason, in one write or later, is one entry; for another reason or tenant, another."""

    async def main() -> None:
        async with database(kind, tmp_path) as db:
            await db.write(quarantine.keep, [entry(b"x"), entry(b"x", received_ms=2_000)])
            await db.write(quarantine.keep, [entry(b"x", received_ms=3_000)])
            (only,) = await db.read(quarantine.select, None, state=None, before="", limit=9)
            assert only.received_ms == 1_000
            await db.write(quarantine.keep, [entry(b"x", code="time_ahead"), entry(b"x", tenant="other")])
            assert len(await ids(db, None)) == 3

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_tenants_see_their_own_entries_alone(kind: str, tmp_path: Path) -> None:
    """Neither a list nor an id shows another tenant's; without a tenant, an operator sees all."""

    async def main() -> None:
        async with database(kind, tmp_path) as db:
            ours, theirs = entry(b"a"), entry(b"a", tenant="other")
            await db.write(quarantine.keep, [ours, theirs])
            assert await ids(db, "acme") == [ours.id]
            assert await ids(db, "other") == [theirs.id]
            assert set(await ids(db, None)) == {ours.id, theirs.id}
            assert (await db.read(quarantine.show, None, theirs.id)) == theirs
            for tenant, wanted in (("acme", theirs.id), ("acme", "qrn_none"), (None, "qrn_none")):
                with pytest.raises(NotFound, match="adjourn quarantine list"):
                    await db.read(quarantine.show, tenant, wanted)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_pages_go_from_the_newest_through_all_of_them_once(kind: str, tmp_path: Path) -> None:
    """Entries of one millisecond too are each on one page, also while new ones come in."""

    async def main() -> None:
        async with database(kind, tmp_path) as db:
            await db.write(quarantine.keep, [entry(b"%d" % n, received_ms=1_000 + n // 4) for n in range(22)])
            seen: list[str] = []
            while page := await ids(db, "acme", before="".join(seen[-1:]), limit=5):
                seen += page
                await db.write(quarantine.keep, [entry(b"new %d" % len(seen), received_ms=9_000)])
            assert len(seen) == len(set(seen)) == 22
            found = await db.read(quarantine.select, "acme", state=None, before="", limit=100)
            times = [each.received_ms for each in found]
            assert times == sorted(times, reverse=True)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_accepted_leaves_the_held_and_stays_on_record(kind: str, tmp_path: Path) -> None:
    """An accepted entry is listed as such with its body, is counted no longer, and a resend does not hold it again."""

    async def main() -> None:
        async with database(kind, tmp_path) as db:
            first, second = entry(b"1"), entry(b"2")
            await db.write(quarantine.keep, [first, second])
            await db.write(quarantine.accepted, first.id)
            assert await ids(db, "acme") == [second.id]
            assert await ids(db, "acme", state="accepted") == [first.id]
            assert len(await ids(db, "acme", state=None)) == 2
            assert (await db.read(quarantine.show, "acme", first.id)).body == b"1"
            await db.write(quarantine.keep, [first])
            assert await db.read(quarantine.held) == 1

    asyncio.run(main())


texts = st.text(max_size=3)


@given(texts, texts, st.binary(max_size=3), texts, texts, st.binary(max_size=3))
def test_an_id_names_tenant_reason_and_body(t: str, c: str, b: bytes, t2: str, c2: str, b2: bytes) -> None:
    """The same three give the same id; another tenant, body or reason another, however their characters are divided."""
    assert (quarantine_id(t, "code", b) == quarantine_id(t2, "code", b2)) is ((t, b) == (t2, b2))
    assert (quarantine_id(t + c, "", b) == quarantine_id(t, c, b)) is (c == "")
    assert (quarantine_id(t, c, b) == quarantine_id(t, c2, b)) is (c == c2)
