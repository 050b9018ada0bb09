"""A turn while it runs: what it has told, what it has used, and how it is to end. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from adjourn.runner import Done, TextDelta, TurnEvent, TurnFailed
from adjourn.sessions import money
from adjourn.sessions.lifecycle import Ending
from adjourn.sessions.money import Meter
from adjourn.sessions.refusals import agent_of
from adjourn.sessions.session import Session, SessionKey, Spent
from adjourn.sessions.turn import Answer, SessionEvent, TurnError, TurnResult, TurnStatus
from adjourn.sessions.turn_changes import Outcome
from adjourn.sessions.turn_rows import TurnRow

CODE_LENGTH_MAX = 256
SEEN_EVENTS_MAX = 2_000
"""Of those that are kept in the database already, so many stay at hand for whoever follows."""

_encode = msgspec.json.Encoder().encode


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Why a turn is stopped. With `ending` the session ends too; with `error` the turn has failed, else it was
    interrupted."""

    ending: Ending | None = None
    error: TurnError | None = None


class Live:
    """Of one turn, on the node that runs it."""

    def __init__(
        self, session: Session, turn: TurnRow, meter: Meter, worst_nanousd: int, told: Callable[[SessionKey], None]
    ) -> None:
        self.key = session.key
        self.session = session
        self.turn = turn
        self.agent = agent_of(session, turn.message)
        self.meter = meter
        self.worst_nanousd = worst_nanousd
        self.held_nanousd = turn.reserved_nanousd if turn.reservation == "held" else None
        """None: it spends from no budget."""
        self.said: list[TurnEvent] = []
        self.events: list[SessionEvent] = []
        """Those that are still at hand; the last `untold` of them are not in the database yet."""
        self.untold = 0
        self.stopping: Stop | None = None
        self.timeout: asyncio.Timeout | None = None
        """Of its running; set to now to end it by force."""
        self.finished = asyncio.Event()
        """Its runner is done with it; it may not be settled yet."""
        self.settled = asyncio.Event()
        self.answer: Answer | None = None
        """Once it is settled; None where that was another node's doing."""
        self.flushing = asyncio.Lock()
        self._seq = session.events
        self._told = told
        self._last: Done | TurnFailed | None = None

    def take(self, event: TurnEvent, at_ms: int) -> None:
        """What the runner has told."""
        data = msgspec.Raw(_encode(event))  # first: what cannot be written has no number
        self._seq += 1
        kind = event.__struct_config__.tag
        self.events.append(
            SessionEvent(seq=self._seq, type=str(kind), at_ms=at_ms, turn_id=self.turn.turn_id, data=data)
        )
        self.untold += 1
        self.said.append(event)
        self.meter.add(event)
        if isinstance(event, Done | TurnFailed):
            self._last = event
        self._told(self.key)

    @property
    def over(self) -> bool:
        """The runner has said its last word."""
        return self._last is not None

    @property
    def to_tell(self) -> Sequence[SessionEvent]:
        return self.events[len(self.events) - self.untold :]

    def kept(self, count: int) -> None:
        """So many more are in the database."""
        self.untold -= count
        spare = len(self.events) - self.untold - SEEN_EVENTS_MAX
        if spare > 0:
            del self.events[:spare]

    def seen_after(self, after: int) -> list[SessionEvent] | None:
        """Events of this turn from there on, or None where the database must be asked for earlier ones."""
        first = self.events[0].seq if self.events else self._seq + 1
        return [event for event in self.events if event.seq > after] if after + 1 >= first else None

    def needs_more(self) -> int:
        """How much more money it must hold before it goes on; 0: none."""
        if self.held_nanousd is None:
            return 0
        return money.next_tranche(self.worst_nanousd, self.held_nanousd, self.meter.spent_nanousd)

    def has_spent_all(self) -> bool:
        return self.held_nanousd is not None and money.must_stop(self.held_nanousd, self.meter.spent_nanousd)

    def has_no_price(self) -> bool:
        """It spends from a budget, and nobody can say how much."""
        meter = self.meter
        return self.held_nanousd is not None and meter.unpriced_model is not None and not meter.told

    def tokens_left(self) -> bool:
        limit = self.session.described.limits.max_tokens
        return limit is None or self.session.spent.total_tokens + self.meter.usage.total_tokens < limit

    def result(self, ended_ms: int) -> TurnResult:
        """How it went."""
        status, error = self._verdict()
        text = self._last.text if isinstance(self._last, Done) else ""
        used = msgspec.structs.replace(self.meter.usage, turns=1, errors=int(status == "failed"))
        stop_reason = self._last.stop_reason if isinstance(self._last, Done) else None
        return TurnResult(
            turn_id=self.turn.turn_id,
            number=self.turn.number,
            status=status,
            text=text or "".join([event.text for event in self.said if isinstance(event, TextDelta)]),
            stop_reason="interrupted" if status == "interrupted" else stop_reason,
            error=error,
            usage=used,
            cost_nanousd=self.meter.cost_nanousd,
            began_ms=self.turn.began_ms or ended_ms,
            ended_ms=max(ended_ms, self.turn.began_ms or 0),
        )

    def unkept(self, outcome: Outcome) -> Outcome:
        """Of a turn whose runner said what cannot be stored: its usage and its cost, and that it has failed."""
        fact = "what its runner said could not be stored; the server's log says why"
        result = msgspec.structs.replace(
            outcome.result,
            status="failed",
            text="",
            error=TurnError(code="runner_error", message=fact),
            usage=msgspec.structs.replace(outcome.result.usage, errors=1),
        )
        return msgspec.structs.replace(outcome, result=result, by_agent={}, said=[])

    def by_agent(self) -> dict[str, Spent]:
        """Of a session with named agents: what each has used."""
        if not self.session.described.config.agents:
            return {}
        found = {name: msgspec.structs.replace(used) for name, used in self.meter.by_agent.items()}
        if self.agent:
            found.setdefault(self.agent, Spent()).turns += 1
        return found

    def _verdict(self) -> tuple[TurnStatus, TurnError | None]:
        last, stop = self._last, self.stopping
        if stop is not None and stop.error is not None:
            return "failed", stop.error
        if isinstance(last, TurnFailed) and stop is None:
            code = last.code[:CODE_LENGTH_MAX].replace("\0", " ") or "runner_error"  # it goes into a column
            return "failed", TurnError(code=code, message=last.message, retryable=last.retryable)
        if stop is not None and not (isinstance(last, Done) and last.stop_reason != "interrupted"):
            return "interrupted", None
        if isinstance(last, Done):
            return ("interrupted" if last.stop_reason == "interrupted" else "done"), None
        fact = "the runner ended the turn without an answer; look at what its program wrote"
        return "failed", TurnError(code="no_answer", message=fact)
