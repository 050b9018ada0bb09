"""What a user sees of the settings of triggers."""

from __future__ import annotations

from tests.flipping.rigs import Flipped, with_node

from adjourn.errors import TriggerInvalid
from adjourn.node import Node
from adjourn.sessions.session import NewSession
from adjourn.sessions.triggers import FileTrigger


def watched_outside(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        session, _ = await node.sessions.create("default", NewSession(pattern="long_running"))
        try:
            await node.sessions.triggers.put(
                "default", session.id, FileTrigger(name="mail", prompt="{files}", path="/srv/mail/default/new")
            )
        except TriggerInvalid:
            return "refused"
        return "watched"

    return with_node(flip, work)
