"""What an answer of a model says of itself: tokens, model, why it ended, what went wrong. OpenAI's chat, completions,
responses and embeddings, Anthropic's messages, and whoever speaks as they do; whole answers and the events of streams.

Sources: platform.openai.com/docs/api-reference (chat/object, chat/streaming, responses/object, responses-streaming) and
docs.anthropic.com/en/api/messages-streaming, "Token counts shown in the usage field … are cumulative".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

COUNT_MAX = 10**12
"""Of tokens in one call; past it a count is a mistake."""
TEXT_LENGTH_MAX = 256


class Usage(msgspec.Struct, omit_defaults=True):
    """Of one call. None: the answer did not say. Input includes cached tokens, output includes reasoning ones."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None

    @property
    def known(self) -> bool:
        return self.input_tokens is not None or self.output_tokens is not None


class Document(msgspec.Struct, gc=False):
    """A JSON answer, or the data of one event of a stream: the fields that matter, whatever their types."""

    id: object = None
    model: object = None
    usage: object = None
    error: object = None
    choices: object = None
    stop_reason: object = None
    status: object = None
    delta: object = None
    message: object = None
    response: object = None
    incomplete_details: object = None


decode_document = msgspec.json.Decoder(Document).decode


class Reading:
    """What has been read of one answer so far."""

    def __init__(self) -> None:
        self.model = ""
        self.response_id = ""
        self.finish_reason = ""
        self.error_code = ""
        self._counts: dict[str, int] = {}

    def take(self, document: Document) -> bool:
        """Whether it said anything of tokens or of an error."""
        said = self._one(document.id, document.model, document.usage)
        if document.choices.__class__ is list:
            for choice in cast("list[object]", document.choices):
                self._finished(field(choice, "finish_reason"))
        self._finished(document.stop_reason)
        for nested in (document.response, document.message):  # of an event of a stream: the answer so far
            if isinstance(nested, dict):
                it = cast("Mapping[str, object]", nested)
                said = self._one(it.get("id"), it.get("model"), it.get("usage")) or said
                said = self._failed(it.get("error")) or said
                self._finished(it.get("stop_reason"))
                self._status(it.get("status"), it.get("incomplete_details"))
        self._finished(field(document.delta, "stop_reason"))
        self._status(document.status, document.incomplete_details)
        return self._failed(document.error) or said

    def take_tail(self, usage: object) -> bool:
        """Of an answer that is too large to be read whole."""
        return self._count(usage)

    @property
    def usage(self) -> Usage:
        return _usage_of(self._counts)

    def _one(self, id: object, model: object, usage: object) -> bool:
        self.response_id = text_of(id) or self.response_id
        self.model = text_of(model) or self.model
        return self._count(usage)

    def _finished(self, reason: object) -> None:
        if reason is not None:
            self.finish_reason = text_of(reason) or self.finish_reason

    def _status(self, status: object, incomplete: object) -> None:
        """Of OpenAI's responses: `completed`, `incomplete` with a reason, `failed`, `cancelled`."""
        if status in ("completed", "incomplete", "failed", "cancelled"):
            self.finish_reason = text_of(field(incomplete, "reason")) or text_of(status)

    def _failed(self, error: object) -> bool:
        if error is None:
            return False
        code = text_of(field(error, "code")) or text_of(field(error, "type")) or text_of(error)
        self.error_code = code or self.error_code or "error"
        return True

    def _count(self, usage: object) -> bool:
        if not isinstance(usage, dict):
            return False
        counts = self._counts
        before = len(counts), sum(counts.values())
        for name, value in cast("Mapping[str, object]", usage).items():
            if isinstance(value, dict):
                for inner, count in cast("Mapping[str, object]", value).items():
                    _keep(counts, f"{name}.{inner}", count)
            else:
                _keep(counts, name, value)
        return before != (len(counts), sum(counts.values()))


def text_of(value: object) -> str:
    """Text that can stand in an event; empty for what is none."""
    return value if isinstance(value, str) and 0 < len(value) <= TEXT_LENGTH_MAX and value.isprintable() else ""


def field(value: object, name: str) -> object:
    """Of a JSON object; None of anything else."""
    return cast("Mapping[str, object]", value).get(name) if isinstance(value, dict) else None


def _keep(counts: dict[str, int], name: str, value: object) -> None:
    # Later values of a stream are totals, not additions.
    if value.__class__ is int and 0 <= cast(int, value) <= COUNT_MAX:
        counts[name] = cast(int, value)


def _first(counts: Mapping[str, int], *names: str) -> int | None:
    return next((counts[name] for name in names if name in counts), None)


def _usage_of(counts: Mapping[str, int]) -> Usage:
    given = _first(counts, "prompt_tokens", "input_tokens")
    output = _first(counts, "completion_tokens", "output_tokens")
    reasoning = _first(counts, "completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens")
    read, created = counts.get("cache_read_input_tokens"), counts.get("cache_creation_input_tokens")
    if read is not None or created is not None:
        # Anthropic counts them beside the input, OpenAI within it.
        given = (given or 0) + (read or 0) + (created or 0)
    else:
        read = _first(counts, "prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens")
        created = _first(counts, "prompt_tokens_details.cache_write_tokens", "input_tokens_details.cache_write_tokens")
    if reasoning and counts.get("total_tokens") == (given or 0) + (output or 0) + reasoning:
        output = (output or 0) + reasoning  # some count it beside the output
    if (read or 0) + (created or 0) > (given or 0):
        read = created = None
    if (reasoning or 0) > (output or 0):
        reasoning = None
    return Usage(given, output, read, created, reasoning)
