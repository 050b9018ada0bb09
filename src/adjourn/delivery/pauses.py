"""Paused destinations: durable, so that every node sees it and a restart changes nothing. Their backlog waits."""

from __future__ import annotations

from adjourn.database import Reader, Tx
from adjourn.delivery.conservation import consumer_of
from adjourn.errors import NotFound


def pause(tx: Tx, name: str, reason: str, now_ms: int) -> None:
    """Idempotent: the first reason stays. Raises NotFound."""
    _require(tx, name)
    tx.run(
        "INSERT INTO destination_pauses (destination, paused_ms, reason) VALUES (?, ?, ?) "
        "ON CONFLICT (destination) DO NOTHING",
        (name, now_ms, reason),
    )


def resume(tx: Tx, name: str) -> bool:
    """Whether it was paused. Raises NotFound."""
    _require(tx, name)
    return bool(tx.run("DELETE FROM destination_pauses WHERE destination = ?", (name,)))


def paused(reader: Reader) -> dict[str, str]:
    """Why, by name."""
    return {str(n): str(why) for n, why in reader.rows("SELECT destination, reason FROM destination_pauses")}


def _require(reader: Reader, name: str) -> None:
    if not reader.rows("SELECT 1 FROM cursors WHERE consumer = ? AND live = 1", (consumer_of(name),)):
        raise NotFound(f"there is no destination {name[:100]}; list them with: adjourn destinations list")
