"""What a request says of its session, and the one that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from adjourn.events import ID_LENGTH_MAX
from adjourn.gateway.usage import field, text_of

SESSION_HEADER = b"x-adjourn-session"
END_HEADER = b"x-adjourn-session-end"
CREDENTIALS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")

MODEL_CALLS = (
    "/chat/completions",
    "/completions",
    "/responses",
    "/messages",
    "/embeddings",
    "/images/generations",
    "/images/edits",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    ":rawPredict",
    ":streamRawPredict",
)
"""POST to one of these is a call of a session. Everything else passes, and belongs to none."""

_API_CALLS = ("/embeddings", "/images/generations", "/images/edits")


class Asked(msgspec.Struct, frozen=True):
    """Of a request's body, if it could be read."""

    model: str = ""
    session_id: str = ""
    user_id: str = ""
    conversation: str = ""
    previous_response_id: str = ""


class _Body(msgspec.Struct):
    model: object = None
    metadata: object = None
    user: object = None
    safety_identifier: object = None
    conversation: object = None
    previous_response_id: object = None


_decode = msgspec.json.Decoder(_Body).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_options = msgspec.json.Decoder(dict[str, object] | None).decode


def is_model_call(method: str, path: str) -> bool:
    return method == "POST" and path.rstrip("/").endswith(MODEL_CALLS)


def is_api_call(path: str) -> bool:
    """One that is no conversation."""
    return path.rstrip("/").endswith(_API_CALLS)


def gives_id(path: str) -> bool:
    """Whether a later call may name the answer as `previous_response_id`."""
    return path.rstrip("/").endswith("/responses")


def read(body: bytes | None) -> Asked:
    if not body:
        return Asked()
    try:
        it = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Asked()
    return Asked(
        model=text_of(it.model),
        session_id=id_of(field(it.metadata, "session_id")),
        user_id=id_of(field(it.metadata, "user_id")) or id_of(it.user) or id_of(it.safety_identifier),
        conversation=text_of(it.conversation) or text_of(field(it.conversation, "id")),
        previous_response_id=text_of(it.previous_response_id),
    )


def id_of(value: object) -> str:
    """Text that may be an event's id; empty for what may not."""
    if not isinstance(value, str) or not value.isprintable() or value != value.strip():
        return ""
    return value if len(value) <= ID_LENGTH_MAX else ""


class Keys:
    """Names of sessions by what their calls have in common: hashes with a salt of the journal's own, so that neither a
    credential nor an address can be read from it."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def of(self, kind: str, *parts: bytes) -> str:
        digest = hashlib.blake2b(kind.encode(), digest_size=16, key=self._salt)
        for part in parts:
            digest.update(b"%d:%b" % (len(part), part))
        return digest.hexdigest()

    def credential(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Sessions of different credentials are different ones, whatever their calls say: nobody can end or fill
        another's. The header does not matter: `Authorization: Bearer KEY` is `x-api-key: KEY`."""
        given = {value.removeprefix(b"Bearer ").strip() for name, value in headers if name in CREDENTIALS}
        return self.of("credential", *sorted(given)).encode()

    def explicit(self, credential: bytes, session_id: str) -> str:
        return self.of("session", credential, session_id.encode())

    def response(self, credential: bytes, response_id: str) -> str:
        return self.of("response", credential, response_id.encode())

    def of_call(
        self, credential: bytes, asked: Asked, session_id: str, agent: bytes, address: str
    ) -> tuple[str, str | None]:
        """(the session's key, the key of the answer that the call continues from): what the call names comes first,
        who makes it last."""
        if session_id:
            return self.explicit(credential, session_id), None
        if asked.conversation:
            return self.of("conversation", credential, asked.conversation.encode()), None
        previous = self.response(credential, asked.previous_response_id) if asked.previous_response_id else None
        if asked.user_id:
            return self.of("user", credential, asked.user_id.encode()), previous
        return previous or self.of("caller", credential, agent, address.encode()), previous


def with_usage(body: bytes) -> bytes | None:
    """The body of a streamed chat with `stream_options.include_usage`, every other value byte for byte as it was.
    None: it has it already, is not streamed, or is no JSON object."""
    try:
        fields = _decode_raw(body)
        if bytes(fields.get("stream", b"")) != b"true":
            return None
        options = _decode_options(fields["stream_options"]) if "stream_options" in fields else None
    except (msgspec.DecodeError, RecursionError):
        return None
    if options is not None and "include_usage" in options:
        return None
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
    return msgspec.json.encode(fields)
