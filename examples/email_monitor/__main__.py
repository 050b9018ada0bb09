"""Long-running: a session that starts its own turns. An agent looks after a maildir, and each new mail wakes it.

`--stay` goes on until the session is ended from elsewhere, or by its limits."""

from __future__ import annotations

import mailbox
import sys
from pathlib import Path

from examples.local_server import completion, connected

from adjourn.sdk.models_events import Completed
from adjourn.sdk.models_sessions import TurnAnswer

HERE = Path(__file__).parent


def main() -> None:
    with connected(HERE) as adjourn:
        session = adjourn.sessions.create(
            "long_running",
            runner="mail",
            name="Look after the mail",
            limits={"max_budget_usd": "0.10", "max_idle_ms": 3_600_000, "turn_timeout_ms": 60_000},
            price={"input_usd_per_mtok": "3", "output_usd_per_mtok": "15"},
            triggers=[
                {"kind": "file", "name": "mail", "path": "maildir", "every_ms": 1_000, "prompt": "New mail:\n{files}"}
            ],
        )
        inbox = adjourn.sessions.send(session.id, "begin").text
        print(f"{session.id} looks after {inbox}")
        mails = sorted((HERE / "mails").iterdir())
        for mail in mails:
            mailbox.Maildir(inbox).add(mail.read_bytes())

        handled = 0
        with adjourn.sessions.follow(session.id) as events:
            for event in events:
                match event.detail:
                    case TurnAnswer(number=number, status=status, text=text, cost_usd=cost) if number > 1:
                        print(f"turn {number} {status}, {cost} USD\n  " + text.replace("\n", "\n  "))
                        handled += len(text.splitlines())
                        if (handled == len(mails) or status != "done") and "--stay" not in sys.argv:
                            adjourn.sessions.terminate(session.id, reason="the office closes")
                    case Completed():
                        print("ended")
                    case _:
                        pass
        session = adjourn.sessions.get(session.id)
        print(f"{session.status}: {session.usage.turns} turns, {session.cost_usd} USD")
        print(completion(adjourn, session))


main()
