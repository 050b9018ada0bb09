"""Conservation: for every destination, what was captured is accounted for, event by event, at any instant.

    captured = before + delivered + filtered + sampled_out + dead_lettered + expired + discarded + lost + pending

`before` is what retention had deleted before the destination was first configured; `lost` is what lay in damaged
blocks. Pending is what lies behind the cursor's next offset, and what is parked.
"""

from __future__ import annotations

import msgspec

from adjourn.database import Reader

KINDS = ("before", "delivered", "filtered", "sampled_out", "dead_lettered", "expired", "discarded", "lost")


class Balance(msgspec.Struct, frozen=True):
    """One destination's account. All are counts of events."""

    destination: str
    captured: int
    before: int
    delivered: int
    filtered: int
    sampled_out: int
    dead_lettered: int
    expired: int
    discarded: int
    lost: int
    pending: int

    @property
    def difference(self) -> int:
        """0, or something was lost or doubled on the way."""
        settled = (
            self.before
            + self.delivered
            + self.filtered
            + self.sampled_out
            + self.dead_lettered
            + self.expired
            + self.discarded
            + self.lost
        )
        return self.captured - settled - self.pending


def balances(reader: Reader) -> list[Balance]:
    """Every destination that was ever configured, from one snapshot."""
    heads = {int(p or 0): int(n or 0) for p, n in reader.rows("SELECT partition, next_offset FROM log_heads")}
    captured = sum(heads.values())
    pending: dict[str, int] = {}
    for consumer, partition, position in reader.rows("SELECT consumer, partition, next_offset FROM cursors"):
        name = str(consumer)
        pending[name] = pending.get(name, 0) + heads.get(int(partition or 0), 0) - int(position or 0)
    for name, count in reader.rows("SELECT destination, count(*) FROM held_events WHERE state = 'parked' GROUP BY 1"):
        consumer = consumer_of(str(name))
        pending[consumer] = pending.get(consumer, 0) + int(count or 0)
    counted: dict[str, dict[str, int]] = {name: {} for name in pending}
    for consumer, kind, count in reader.rows("SELECT consumer, kind, sum(count) FROM consumer_counts GROUP BY 1, 2"):
        counted.setdefault(str(consumer), {})[str(kind)] = int(count or 0)
    return [
        Balance(
            destination=name.removeprefix(CONSUMER_PREFIX),
            captured=captured,
            pending=pending.get(name, 0),
            **{kind: counts.get(kind, 0) for kind in KINDS},
        )
        for name, counts in sorted(counted.items())
        if name.startswith(CONSUMER_PREFIX)
    ]


CONSUMER_PREFIX = "destination:"


def consumer_of(destination: str) -> str:
    """The name under which a destination keeps its cursors."""
    return CONSUMER_PREFIX + destination
