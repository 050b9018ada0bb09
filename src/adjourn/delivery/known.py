"""Which destinations the log waits for: those that any node ever listed, until somebody says to forget one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adjourn.database import Tx
from adjourn.delivery.conservation import consumer_of
from adjourn.errors import NotFound

_MISSED = (
    "INSERT INTO consumer_counts (consumer, partition, kind, count) "
    "SELECT c.consumer, c.partition, 'expired', h.tail_offset - c.next_offset "
    "FROM cursors c JOIN log_heads h ON h.partition = c.partition "
    "WHERE c.consumer = ? AND c.partition = ? AND c.next_offset < h.tail_offset "
    "ON CONFLICT (consumer, partition, kind) DO UPDATE SET count = consumer_counts.count + excluded.count"
)
_TO_TAIL = (
    "UPDATE cursors SET next_offset = h.tail_offset FROM log_heads h "
    "WHERE h.partition = cursors.partition AND cursors.next_offset < h.tail_offset "
    "AND cursors.consumer = ? AND cursors.partition = ?"
)

Register = Callable[[Tx, str, int, int | None], None]
"""(tx, consumer, partition, drop_after_ms): make a consumer known to the log."""


def register_all(tx: Tx, register: Register, known: Mapping[str, int | None], partitions: int) -> None:
    """A destination that this node does not list may be another node's: it goes on holding the log until `forget`."""
    for name, drop_after_ms in known.items():
        for partition in range(partitions):
            register(tx, consumer_of(name), partition, drop_after_ms)
            _account(tx, consumer_of(name), partition)


def _account(tx: Tx, consumer: str, partition: int) -> None:
    """What retention deleted while a destination was forgotten has expired for it; it goes on with what is left."""
    if tx.run(_MISSED, (consumer, partition)):
        tx.run(_TO_TAIL, (consumer, partition))


def forget(tx: Tx, name: str) -> None:
    """Let retention pass a destination that is configured nowhere any more. Raises NotFound."""
    if not tx.run("UPDATE cursors SET live = 0 WHERE consumer = ?", (consumer_of(name),)):
        raise NotFound(f"there is no destination {name}; list them with: adjourn destinations list")
    tx.run("DELETE FROM destination_outages WHERE destination = ?", (name,))
