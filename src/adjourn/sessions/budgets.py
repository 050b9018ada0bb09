"""The budgets that a turn spends from: its session's and those of its ancestors; and above the tree the totals of its
tenant and of its user, where the settings have them.

A total's account is opened by the first turn that spends from it, and stays: what was spent is spent, whatever is
deleted. What it was opened with is kept beside it, so that a node which starts with another total moves what is left by
the difference, once; the node that started last counts. While a total is not set nothing is spent from it, and what was
spent before counts again once it is."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple
from urllib.parse import quote

from adjourn.database import Reader, Tx
from adjourn.prices import nanousd_of
from adjourn.sessions import money, rows
from adjourn.sessions.session import Session
from adjourn.settings import HostingSettings, TenantSettings

MOVED_AT_ONCE = 500


class Total(NamedTuple):
    """`user_id` is empty for what all of a tenant's sessions spend; `setting` says where it was set."""

    tenant: str
    user_id: str
    nanousd: int
    setting: str

    @property
    def account(self) -> str:
        """None of a session's, and no other tenant's or user's, whatever they are called."""
        return account_of_total(self.tenant, self.user_id)

    @property
    def whose(self) -> str:
        return f"user {self.user_id} of tenant {self.tenant}" if self.user_id else f"tenant {self.tenant}"


def account_of_total(tenant: str, user_id: str) -> str:
    return "/".join(("total", *(quote(name, safe="") for name in (tenant, user_id) if name)))


class Totals:
    """What the settings say of them."""

    def __init__(self, hosting: HostingSettings) -> None:
        self._tenants = {each.name: (f"hosting.tenants[{i}]", each) for i, each in enumerate(hosting.tenants)}

    def of(self, tenant: str, user_id: str) -> list[Total]:
        path, each = self._tenants.get(tenant, ("", _NOTHING))
        found: list[Total] = []
        if each.total_budget_usd is not None:
            found.append(Total(tenant, "", _nanousd(each.total_budget_usd), f"{path}.total_budget_usd"))
        if each.total_budget_usd_per_user is not None and user_id:
            nanousd = _nanousd(each.total_budget_usd_per_user)
            found.append(Total(tenant, user_id, nanousd, f"{path}.total_budget_usd_per_user"))
        return found

    def over(self, session: Session) -> list[Total]:
        return self.of(session.tenant, session.user_id)

    def every(self) -> list[Total]:
        """Each that is set; those per user for a user named "*"."""
        return [total for tenant in self._tenants for total in self.of(tenant, "*")]


def budgets(reader: Reader, session: Session, totals: Totals) -> list[tuple[str, int]]:
    """(account, balance in nano-USD) of every budget that it spends from."""
    ids = [session.id, *rows.ancestors(reader, session.tenant, session.parent_id)]
    names = [money.account_of(session.tenant, each) for each in ids]
    names += [total.account for total in totals.over(session)]
    found = reader.rows(f"SELECT name, balance FROM accounts WHERE name IN ({', '.join('?' * len(names))})", names)
    return [(str(row[0]), int(row[1] or 0)) for row in found]


def opened_budgets(tx: Tx, session: Session, totals: Totals) -> list[tuple[str, int]]:
    """`budgets`; the accounts of totals that have none yet are opened."""
    found = budgets(tx, session, totals)
    names = {name for name, _ in found}
    missing = [total for total in totals.over(session) if total.account not in names]
    for total in missing:
        # Another lane may open it at the same time: this one waits for that, and finds what the other has left of it.
        tx.run(
            "INSERT INTO budget_totals (tenant, user_id, total_nanousd) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (total.tenant, total.user_id, total.nanousd),
        )
        tx.run(
            "INSERT INTO accounts (name, balance) SELECT ?, total_nanousd FROM budget_totals "
            "WHERE tenant = ? AND user_id = ? ON CONFLICT DO NOTHING",
            (total.account, total.tenant, total.user_id),
        )
    return budgets(tx, session, totals) if missing else found


def move_totals(tx: Tx, total: Total) -> int:
    """Make some totals what the settings say, and move what is left by as much: that of a tenant, or those of its users
    where `total` is any user's. How many there were to move: at 0 all are."""
    whose = "user_id > ''" if total.user_id else "user_id = ''"
    found = tx.rows(
        f"SELECT user_id, total_nanousd FROM budget_totals WHERE tenant = ? AND {whose} AND total_nanousd <> ? LIMIT ?",
        (total.tenant, total.nanousd, MOVED_AT_ONCE),
    )
    for user_id, old in ((str(row[0]), int(row[1] or 0)) for row in found):
        # A row of its own, which no turn touches: the account itself is everyone's, and only debited.
        moved = tx.run(
            "UPDATE budget_totals SET total_nanousd = ? WHERE tenant = ? AND user_id = ? AND total_nanousd = ?",
            (total.nanousd, total.tenant, user_id, old),
        )
        if moved:
            tx.debit(account_of_total(total.tenant, user_id), old - total.nanousd, forced=True)
    return len(found)


def left_of(reader: Reader, totals: Sequence[Total]) -> dict[str, int]:
    """What is left of each, by its user; what running turns hold is not. Below zero where it was lowered to less than
    was spent, or the last turn passed it."""
    left = {total.user_id: total.nanousd for total in totals}
    for total in totals:
        found = reader.rows("SELECT balance FROM accounts WHERE name = ?", (total.account,))
        if found:
            left[total.user_id] = int(found[0][0] or 0)
    return left


_NOTHING = TenantSettings(name="")


def _nanousd(usd: float) -> int:
    return nanousd_of(Decimal(str(usd)))
