"""How each destination stands, from one snapshot of the database: true for every node, with or without a server."""

from __future__ import annotations

import msgspec

from adjourn.database import Reader, Tx
from adjourn.delivery import pauses
from adjourn.delivery.conservation import CONSUMER_PREFIX, Balance, balances


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """`running`: a node has it in hand. `parked`: events of `pending` that are tried again alone. `outage`: why that
    node could not deliver, when it last tried; empty when all is well. `behind`: the places (partition, offset) at
    which its backlog begins. `oldest_ms`: when the oldest event arrived that is pending; None where nothing is."""

    balance: Balance
    running: bool = True
    parked: int = 0
    paused: str | None = None
    outage: str = ""
    outage_ms: int | None = None
    behind: tuple[tuple[int, int], ...] = ()
    oldest_ms: int | None = None

    @property
    def name(self) -> str:
        return self.balance.destination

    @property
    def waiting(self) -> str:
        """Why nothing is delivered; empty when all is well."""
        return self.outage if self.paused is None else f"paused: {self.paused}"


_LEASE_PREFIX = "deliver/"


def lease_of(destination: str) -> str:
    """The lease that a node holds while it delivers there."""
    return _LEASE_PREFIX + destination


def led(reader: Reader) -> set[str]:
    """Destinations that a node delivers to, or did when it was killed."""
    names = [str(name) for (name,) in reader.rows("SELECT name FROM leases WHERE owner <> ''")]
    return {name.removeprefix(_LEASE_PREFIX) for name in names if name.startswith(_LEASE_PREFIX)}


def standings(reader: Reader) -> list[Standing]:
    """Every destination that was ever configured, by name; `oldest_ms` is of what is parked."""
    parked = {
        str(name): (int(count or 0), int(oldest or 0))
        for name, count, oldest in reader.rows(
            "SELECT destination, count(*), min(received_ms) FROM held_events WHERE state = 'parked' GROUP BY 1"
        )
    }
    away = outages(reader)
    paused = pauses.paused(reader)
    running = led(reader)
    behind: dict[str, list[tuple[int, int]]] = {}
    for consumer, partition, position in reader.rows(
        "SELECT consumer, cursors.partition, cursors.next_offset FROM cursors "
        "JOIN log_heads ON log_heads.partition = cursors.partition "
        "WHERE cursors.next_offset < log_heads.next_offset ORDER BY 1, 2"
    ):
        name = str(consumer).removeprefix(CONSUMER_PREFIX)
        behind.setdefault(name, []).append((int(partition or 0), int(position or 0)))
    return [
        Standing(
            balance=balance,
            running=balance.destination in running,
            parked=parked.get(balance.destination, (0, 0))[0],
            paused=paused.get(balance.destination),
            outage=away.get(balance.destination, ("", 0))[0],
            outage_ms=away[balance.destination][1] if balance.destination in away else None,
            behind=tuple(behind.get(balance.destination, ())),
            oldest_ms=parked[balance.destination][1] if balance.destination in parked else None,
        )
        for balance in balances(reader)
    ]


def note_outage(tx: Tx, name: str, reason: str, now_ms: int) -> None:
    """By the node that delivers there; an empty reason ends it. Where the reason alone changes, the beginning stays."""
    if not reason:
        tx.run("DELETE FROM destination_outages WHERE destination = ?", (name,))
        return
    tx.run(
        "INSERT INTO destination_outages (destination, since_ms, reason) VALUES (?, ?, ?) "
        "ON CONFLICT (destination) DO UPDATE SET reason = excluded.reason",
        (name, now_ms, reason),
    )


def outages(reader: Reader) -> dict[str, tuple[str, int]]:
    """(why, since when) by name, of those that are noted to be away."""
    rows = reader.rows("SELECT destination, reason, since_ms FROM destination_outages")
    return {str(name): (str(reason), int(since or 0)) for name, reason, since in rows}
