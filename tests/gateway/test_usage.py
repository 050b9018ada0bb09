"""Reading what answers say of themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.gateway import answers

from adjourn.gateway.usage import Reading, Usage, decode_document


def reading(*values: Any) -> Reading:
    found = Reading()
    for value in values:
        found.take(decode_document(json.dumps(value).encode()))
    return found


def events(parts: list[bytes]) -> list[Any]:
    lines = [line[6:] for part in parts for line in part.decode().splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("values", "usage", "finish"),
    [
        ([answers.chat("gpt-4o")], Usage(19, 10, 4, None, 3), "stop"),
        (events(answers.chat_stream("gpt-4o", include_usage=True)), Usage(19, 10, 4, None, 3), "stop"),
        (events(answers.chat_stream("gpt-4o", include_usage=False)), Usage(), "stop"),
        ([answers.response("gpt-4o", "resp_1")], Usage(36, 87, 6, None, 7), "completed"),
        (events(answers.response_stream("gpt-4o", "resp_1")), Usage(36, 87, 6, None, 7), "completed"),
        ([answers.message("claude")], Usage(1125, 15, 1000, 100), "end_turn"),
        (events(answers.message_stream("claude")), Usage(1125, 15, 1000, 100), "end_turn"),
        ([answers.embeddings("text-embedding-3-small")], Usage(8), ""),
        ([answers.OPENAI_ERROR], Usage(), ""),
    ],
)
def test_documented_answers(values: list[Any], usage: Usage, finish: str) -> None:
    """Each public form, whole and streamed, gives its tokens and why it ended; what is not said is not invented."""
    found = reading(*values)
    assert found.usage == usage
    assert found.finish_reason == finish


def test_ids_models_and_errors() -> None:
    """The answer's own model and id are read, and the most telling name of an error."""
    found = reading(*events(answers.response_stream("gpt-4o", "resp_7")))
    assert (found.model, found.response_id, found.error_code) == ("gpt-4o", "resp_7", "")
    assert reading(answers.OPENAI_ERROR).error_code == "rate_limit_exceeded"
    assert reading(answers.ANTHROPIC_ERROR).error_code == "overloaded_error"
    assert reading({"error": "quota"}).error_code == "quota"
    assert reading({"error": {"message": "x"}}).error_code == "error"
    failed = {**answers.response("m", "resp_1", status="failed"), "error": {"code": "server_error", "message": "x"}}
    ended = reading({"type": "response.failed", "response": failed})
    assert (ended.error_code, ended.finish_reason) == ("server_error", "failed")
    cut = {**answers.response("m", "r"), "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert reading(cut).finish_reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 2)),
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 27,
             "completion_tokens_details": {"reasoning_tokens": 20}},
            Usage(5, 22, None, None, 20),
        ),
        ({"prompt_tokens": 5, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 20}}, Usage(5, 2)),
        ({"prompt_tokens": -1, "completion_tokens": 2}, Usage(None, 2)),
        ({"prompt_tokens": 10**15, "completion_tokens": True}, Usage()),
        ({"prompt_tokens": "5", "completion_tokens": 1.5, "x": [1], "prompt_tokens_details": None}, Usage()),
        ({"input_tokens": None, "output_tokens": 3}, Usage(None, 3)),
        ("5", Usage()),
        ([1], Usage()),
    ],
)  # fmt: skip
def test_odd_counts(usage: Any, read: Usage) -> None:
    """What contradicts itself or is no count is left out: it must not cost a session its completion. Reasoning that is
    counted beside the output belongs to it."""
    assert reading({"usage": usage}).usage == read
