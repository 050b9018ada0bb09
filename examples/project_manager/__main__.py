"""Hybrid: a session that rests between messages, for days if need be. Here the server is killed meanwhile."""

from __future__ import annotations

from pathlib import Path

from examples.local_server import Server, completion, folder

HERE = Path(__file__).parent


def main() -> None:
    with folder() as data:
        server = Server(HERE, data)
        server.start()
        try:
            talk(server)
        finally:
            server.stop()


def talk(server: Server) -> None:
    with server.client() as adjourn:
        session = adjourn.sessions.create(
            "hybrid",
            runner="planner",
            name="The new shop",
            state={"sprint": 1},
            price={"input_usd_per_mtok": "3", "output_usd_per_mtok": "15"},
        )
        print(adjourn.sessions.send(session.id, "add: draw the shelves").text)
        print(f"  {adjourn.sessions.get(session.id).status}: no process runs")

    server.stop()
    server.start()
    print("-- the server was stopped, and is back --")
    with server.client() as adjourn:
        print(adjourn.sessions.send(session.id, "add: order the wood").text)
        session = adjourn.sessions.get(session.id)
        adjourn.sessions.update(session.id, session.revision, state={"sprint": 2})

    server.kill()
    server.start()
    print("-- the server was killed, and is back --")
    with server.client() as adjourn:
        print(f"  resumed: {adjourn.sessions.resume(session.id).status}")
        print(adjourn.sessions.send(session.id, "done: draw the shelves").text)
        done = adjourn.sessions.complete(session.id, final_message="The shop is planned.")
        print(f"{done.status}: {done.usage.turns} turns, {done.messages} messages")
        print(completion(adjourn, done))

        # What has ended takes no more messages; a new session goes on where it was.
        again = adjourn.sessions.resume(session.id)
        page = adjourn.sessions.messages(again.id)
        print(f"a new session goes on with its {len(page.messages)} messages, in sprint {again.state['sprint']}")
        print(completion(adjourn, adjourn.sessions.complete(again.id)))


main()
