"""What a program puts around its sessions."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncGenerator, Generator
from decimal import Decimal
from pathlib import Path

import pytest

import adjourn
from adjourn import Runtime, current_session, get_runtime, session
from adjourn.errors import EventInvalid
from adjourn.events import Completion, decode_completion
from adjourn.testing.account import bodies
from tests.faults.rigs import mapping, settings_of


@pytest.fixture
def runtime(tmp_path: Path) -> Generator[Runtime]:
    """Also the one that `get_runtime` gives."""
    with Runtime(settings_of(mapping(tmp_path))) as made:
        adjourn.set_runtime(made)
        yield made


def completions(runtime: Runtime) -> list[Completion]:
    """All that is in the log, in order."""
    runtime.drain()
    return [decode_completion(body) for body in runtime.call(bodies)]


def outcomes(runtime: Runtime) -> list[tuple[str | None, str | None]]:
    found = [event.outcome for event in completions(runtime)]
    return [(outcome.status, outcome.error_code) for outcome in found if outcome is not None]


def test_leaving_the_block_is_success_with_all_that_was_used(runtime: Runtime) -> None:
    """Usage of several calls adds up, tags and times are there, and the receipt is of that completion."""
    with session(user_id="usr_1", organization_id="org_1", model="gpt-4o", custom_tags={"a": 1}) as s:
        assert current_session() is s
        s.add_usage(input_tokens=1000, output_tokens=200, cache_read_input_tokens=50)
        s.add_usage(input_tokens=250, output_tokens=90, tool_calls=2, cost_usd=Decimal("0.0100"))
        s.add_usage(cost_usd=Decimal("0.0023"))
        s.tag(b=["x"])
    assert current_session() is None
    assert s.receipt is not None
    assert s.receipt.result(20).status == "accepted"
    (event,) = completions(runtime)
    assert event.session.session_id == s.session_id
    assert event.session.start_time is not None
    assert event.session.end_time is not None
    assert event.session.start_time <= event.session.end_time
    assert event.user is not None
    assert (event.user.user_id, event.user.organization_id) == ("usr_1", "org_1")
    usage = event.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.tool_calls) == (1250, 290, 1540, 2)
    assert (usage.cache_read_input_tokens, usage.estimated_cost_usd, usage.model) == (50, Decimal("0.0123"), "gpt-4o")
    assert event.metadata is not None
    assert event.metadata.custom_tags is not None
    assert {name: bytes(tag) for name, tag in event.metadata.custom_tags.items()} == {"a": b"1", "b": b'["x"]'}
    assert outcomes(runtime) == [("success", None)]


class RefusedError(Exception):
    pass


class EndOfWorld(BaseException):
    pass


def test_an_exception_completes_the_session_as_an_error_and_passes_on(runtime: Runtime) -> None:
    """The exception's type is the error code, TimeoutError is a timeout, Ctrl-C is the user's; none is swallowed."""
    errors = (RefusedError("no"), TimeoutError(), KeyboardInterrupt(), SystemExit(3), SystemExit(0), EndOfWorld())
    for error in errors:
        with pytest.raises(type(error)), session():
            raise error
    assert outcomes(runtime) == [
        ("error", "RefusedError"),
        ("timeout", "TimeoutError"),
        ("user_terminated", "KeyboardInterrupt"),
        ("error", "SystemExit"),
        ("success", None),
        ("error", "EndOfWorld"),
    ]


def test_the_same_in_coroutines_and_cancellation_is_the_users(runtime: Runtime) -> None:
    """`async with` completes alike; asyncio.timeout inside is a timeout, and a cancelled task was ended by its user."""

    async def main() -> None:
        async with session():
            pass
        with pytest.raises(TimeoutError):
            async with session():
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(5)

        async def sleeper() -> None:
            async with session():
                await asyncio.sleep(5)

        task = asyncio.create_task(sleeper())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert outcomes(runtime) == [
        ("success", None),
        ("timeout", "TimeoutError"),
        ("user_terminated", "CancelledError"),
    ]


def test_a_decorated_function_is_a_session_at_each_call(runtime: Runtime) -> None:
    """Functions and coroutine functions keep their results, names and errors; each call is a session of its own."""
    seen: list[str] = []

    @session(model="gpt-4o")
    def answer(number: int) -> int:
        found = current_session()
        assert found is not None
        seen.append(found.session_id)
        found.add_usage(input_tokens=number)
        return number * 2

    @session()
    async def later(number: int) -> int:
        if number > 1:
            raise RefusedError
        return number

    assert [answer(1), answer(2)] == [2, 4]
    assert answer.__name__ == "answer"
    assert asyncio.run(later(1)) == 1  # type: ignore[arg-type]  # Callable[P, T] of a coroutine function
    with pytest.raises(RefusedError):
        asyncio.run(later(2))  # type: ignore[arg-type]  # as above
    events = completions(runtime)
    assert [event.session.session_id for event in events[:2]] == seen
    assert len({event.session.session_id for event in events}) == 4
    assert outcomes(runtime)[2:] == [("success", None), ("error", "RefusedError")]
    with pytest.raises(ValueError, match="session_id"):
        session(session_id="fixed")(answer)


def test_sessions_nest_and_tasks_do_not_see_each_others(runtime: Runtime) -> None:
    """The innermost session is the current one, in each task by itself; one object is entered once."""

    async def one(number: int) -> None:
        async with session(session_id=f"task-{number}") as outer:
            await asyncio.sleep(0.005)
            with session(session_id=f"inner-{number}") as inner:
                await asyncio.sleep(0.005)
                assert current_session() is inner
            assert current_session() is outer

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(10)))

    asyncio.run(main())
    with session() as done:
        pass
    with pytest.raises(RuntimeError, match="begun before"), done:
        pass
    assert len(completions(runtime)) == 21


def test_the_end_can_be_said(runtime: Runtime) -> None:
    """end_as overrides success, and an exception overrides that."""
    with session() as s:
        s.end_as("timeout", error_code="max_turns", final_message="enough")
    with pytest.raises(RefusedError), session() as s:
        s.end_as("success")
        raise RefusedError
    assert outcomes(runtime) == [("timeout", "max_turns"), ("error", "RefusedError")]


def test_get_runtime_is_one_per_process_and_made_anew_after_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    """set_runtime says which it is; once that is stopped, a new one is made from the environment."""
    assert get_runtime() is runtime
    runtime.stop()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADJOURN_DATA_DIR", str(tmp_path / "own"))
    made = get_runtime()
    assert made is not runtime
    assert made is get_runtime()
    with session():
        pass
    made.drain()
    assert (tmp_path / "own" / "adjourn.db").exists()
    made.stop()


def test_the_runtime_of_a_session_can_be_given(tmp_path: Path, runtime: Runtime) -> None:
    """A session completes through the runtime that it was given, and not through the process's own."""
    with Runtime(settings_of(mapping(tmp_path / "other"))) as other:
        with session(runtime=other):
            pass
        assert len(completions(other)) == 1
    assert completions(runtime) == []


def test_a_decorated_generator_is_a_session_until_it_is_exhausted_or_closed(runtime: Runtime) -> None:
    """What the body adds between its items counts; leaving it early, closing it or an error inside end it as such."""

    @session()
    def stream(count: int) -> Generator[int, int | None, str]:
        for number in range(count):
            found = current_session()
            assert found is not None
            found.add_usage(output_tokens=1)
            if (yield number) == -1:
                raise RefusedError
        return "done"

    assert inspect.isgeneratorfunction(stream)
    unused = stream(3)
    assert list(stream(3)) == [0, 1, 2]
    steps = stream(3)
    assert next(steps) == 0
    assert completions(runtime) == completions(runtime)
    assert len(completions(runtime)) == 1, "it goes on until it ends"
    steps.close()
    with pytest.raises(RefusedError):
        (steps := stream(3)).send(None)
        steps.send(-1)
    with pytest.raises(TimeoutError):
        next(steps := stream(3))
        steps.throw(TimeoutError())
    with pytest.raises(StopIteration) as end:
        next(stream(0))
    assert end.value.value == "done"
    del unused
    assert outcomes(runtime) == [
        ("success", None),
        ("user_terminated", "GeneratorExit"),
        ("error", "RefusedError"),
        ("timeout", "TimeoutError"),
        ("success", None),
    ]
    assert [each.usage.output_tokens for each in completions(runtime) if each.usage] == [3, 1, 1, 1, None]


def test_a_decorated_async_generator_is_a_session_too(runtime: Runtime) -> None:
    """Exhausted, left early, thrown into, cancelled: each ends its session once, and what is sent reaches the body."""

    @session()
    async def stream(count: int) -> AsyncGenerator[int, int]:
        number = 0
        while number < count:
            await asyncio.sleep(0)
            assert current_session() is not None
            try:
                number += (yield number) or 1
            except LookupError:
                number = 10

    async def main() -> None:
        assert inspect.isasyncgenfunction(stream)
        assert [number async for number in stream(3)] == [0, 1, 2]
        steps = stream(20)
        assert [await anext(steps), await steps.asend(5), await steps.athrow(LookupError())] == [0, 5, 10]
        assert current_session() is None, "between two items the consumer is outside"
        await steps.aclose()
        with pytest.raises(RefusedError):
            await anext(steps := stream(3))
            await steps.athrow(RefusedError())

        async def consume() -> None:
            async for _ in stream(10**9):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert outcomes(runtime) == [
        ("success", None),
        ("user_terminated", "GeneratorExit"),
        ("error", "RefusedError"),
        ("user_terminated", "CancelledError"),
    ]


def test_generators_that_take_turns_keep_their_sessions_apart(runtime: Runtime) -> None:
    """Between its items a generator's session is nobody's: the consumer is in its own, and so is each generator."""

    @session()
    def stream() -> Generator[str]:
        outer = current_session()
        assert outer is not None
        yield outer.session_id
        with session() as inner:
            yield inner.session_id
            assert current_session() is inner
        assert current_session() is outer
        yield outer.session_id

    with session() as consumer:
        one, other = stream(), stream()
        seen: list[tuple[str, str]] = []
        for pair in zip(one, other, strict=True):
            assert current_session() is consumer
            seen.append(pair)
    assert seen[0] == seen[2] != seen[1]
    assert len({name for pair in seen for name in pair}) == 4
    assert current_session() is None
    assert len(completions(runtime)) == 5


def test_a_session_may_end_in_another_context_than_it_began_in(runtime: Runtime) -> None:
    """As a web framework's dependency does that is entered in one thread and left in another: it completes, and where
    it began it is no longer current."""

    def dependency() -> Generator[session]:
        with session(session_id="dependency") as s:
            yield s

    steps = dependency()
    began, ended = contextvars.copy_context(), contextvars.copy_context()
    s = began.run(next, steps)
    assert began.run(current_session) is s
    thread = threading.Thread(target=ended.run, args=(next, steps, None))
    thread.start()
    thread.join()
    assert [each.session.session_id for each in completions(runtime)] == ["dependency"]
    assert began.run(current_session) is None

    def after() -> None:
        with session(session_id="after"):
            pass
        assert current_session() is None

    began.run(after)
    assert outcomes(runtime) == [("success", None)] * 2


def test_an_error_inside_is_not_lost_to_one_of_capture(tmp_path: Path) -> None:
    """With a spool that is full, or a runtime that was stopped, the program gets its own error, with a note; a session
    that succeeded raises what capture raised."""
    with Runtime(settings_of(mapping(tmp_path))) as stopped:
        pass
    with pytest.raises(RefusedError) as mine, session(runtime=stopped) as s:
        raise RefusedError
    assert s.session_id in mine.value.__notes__[0]
    assert "closed" in mine.value.__notes__[0]
    assert s.receipt is None
    with pytest.raises(adjourn.AdjournError, match="closed"), session(runtime=stopped):
        pass
    assert current_session() is None


def test_a_tag_that_is_no_json_is_refused_where_it_is_given_and_costs_nothing(runtime: Runtime) -> None:
    """It raises at once, the session completes with its other tags, and they are as they were when they were given."""
    with pytest.raises(EventInvalid, match="'wrong'"):
        session(custom_tags={"wrong": object()})
    tags: list[object] = ["a"]
    with session(custom_tags={"self": 1}) as s:
        s.tag(kept=tags)
        tags.append(tags)
        for wrong in (object(), "\ud800", {"a": object()}, tags):
            with pytest.raises(EventInvalid):
                s.tag(wrong=wrong)
    (found,) = completions(runtime)
    assert found.metadata is not None
    assert found.metadata.custom_tags is not None
    assert {name: bytes(tag) for name, tag in found.metadata.custom_tags.items()} == {"self": b"1", "kept": b'["a"]'}
