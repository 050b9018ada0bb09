"""Answers as OpenAI's and Anthropic's public API references show them, with our own ids, texts and counts."""

from __future__ import annotations

import json
from typing import Any

TEXT = ["Hello", " from", " the", " model", "."]


def sse(*events: tuple[str, dict[str, Any]] | dict[str, Any] | str) -> list[bytes]:
    parts: list[bytes] = []
    for event in events:
        if isinstance(event, str):
            parts.append(f"data: {event}\n\n".encode())
        elif isinstance(event, tuple):
            parts.append(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
        else:
            parts.append(f"data: {json.dumps(event)}\n\n".encode())
    return parts


CHAT_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 3,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def chat(model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": f"{model}-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(TEXT), "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": CHAT_USAGE,
        "service_tier": "default",
    }


def chat_stream(model: str, *, include_usage: bool) -> list[bytes]:
    head: dict[str, Any] = {
        "id": "chatcmpl-123",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": model,
        "system_fingerprint": "fp_44709d6fcb",
    }
    if include_usage:
        head["usage"] = None

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    events: list[Any] = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": t}) for t in TEXT)]
    events.append(chunk({}, "stop"))
    if include_usage:
        events.append({**head, "choices": [], "usage": CHAT_USAGE})
    return sse(*events, "[DONE]")


RESPONSE_USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 6},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 7},
    "total_tokens": 123,
}


def response(model: str, id: str, *, status: str = "completed") -> dict[str, Any]:
    return {
        "id": id,
        "object": "response",
        "created_at": 1741476542,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": model,
        "output": [
            {
                "type": "message",
                "id": "msg_67ccd2bf17f0819081ff3bb2cf6508e6",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "".join(TEXT), "annotations": []}],
            }
        ]
        if status == "completed"
        else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": RESPONSE_USAGE if status == "completed" else None,
        "user": None,
        "metadata": {},
    }


def response_stream(model: str, id: str) -> list[bytes]:
    item = "msg_67c9fdcf37fc8190ba82116e33fb28c5"
    place: dict[str, Any] = {"item_id": item, "output_index": 0, "content_index": 0}
    begun = response(model, id, status="in_progress")
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        (
            "response.output_item.added",
            {
                "output_index": 0,
                "item": {"id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": []},
            },
        ),
        (
            "response.content_part.added",
            {**place, "part": {"type": "output_text", "text": "", "annotations": []}},
        ),
        *(("response.output_text.delta", {**place, "delta": text, "logprobs": []}) for text in TEXT),
        ("response.output_text.done", {**place, "text": "".join(TEXT), "logprobs": []}),
        (
            "response.content_part.done",
            {**place, "part": {"type": "output_text", "text": "".join(TEXT), "annotations": []}},
        ),
        ("response.output_item.done", {"output_index": 0, "item": {**response(model, id)["output"][0], "id": item}}),
        ("response.completed", {"response": response(model, id)}),
    ]
    return sse(*((name, {"type": name, "sequence_number": n, **data}) for n, (name, data) in enumerate(events)))


def message(model: str) -> dict[str, Any]:
    return {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "".join(TEXT)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "output_tokens": 15,
            "service_tier": "standard",
        },
    }


def message_stream(model: str) -> list[bytes]:
    """Its counts are cumulative: output is 15, not 16."""
    begun = {**message(model), "content": [], "stop_reason": None}
    begun["usage"] = {**begun["usage"], "output_tokens": 1}
    return sse(
        ("message_start", {"type": "message_start", "message": begun}),
        (
            "content_block_start",
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ),
        ("ping", {"type": "ping"}),
        *(
            (
                "content_block_delta",
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            )
            for text in TEXT
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 15},
            },
        ),
        ("message_stop", {"type": "message_stop"}),
    )


def embeddings(model: str, vectors: int = 1) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": [0.0023064255, -0.009327292], "index": n} for n in range(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }


OPENAI_ERROR = {
    "error": {
        "message": "Rate limit reached for gpt-4o.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
}
ANTHROPIC_ERROR = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
    "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
}
