"""Every error that Adjourn raises on purpose: one tree, each message a fact and a remedy, each with its HTTP status.

`code` is the stable name that clients may match on; docs/reference/errors.md lists every one.
"""

from __future__ import annotations

from typing import ClassVar


class AdjournError(Exception):
    """The root. `message` states the fact and the remedy; `path` names the offending field or setting, if any."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, path: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.retry_after_ms = retry_after_ms


class ConfigInvalid(AdjournError):
    """A setting is unknown, of the wrong type, or contradicts another."""

    code = "config_invalid"
    status = 400


class EventInvalid(AdjournError):
    """An event breaks the schema. It is kept whole in quarantine."""

    code = "event_invalid"
    status = 422


class EventConflict(AdjournError):
    """An event's id was used before with other content. It is kept whole in quarantine."""

    code = "event_conflict"
    status = 409


class BodyInvalid(AdjournError):
    """A request's body cannot be read as what its headers say it is."""

    code = "body_invalid"
    status = 400


class BodyTooLarge(AdjournError):
    """A request's body is larger than the server takes at once."""

    code = "body_too_large"
    status = 413


class MediaTypeUnsupported(AdjournError):
    """The content type or encoding of a request is not one that this route reads."""

    code = "media_type_unsupported"
    status = 415


class Unauthenticated(AdjournError):
    """No key, or one that is unknown or revoked."""

    code = "unauthenticated"
    status = 401


class Forbidden(AdjournError):
    """The key is good, but its role does not allow this."""

    code = "forbidden"
    status = 403


class NotFound(AdjournError):
    """Nothing of that name exists for this tenant."""

    code = "not_found"
    status = 404


class MethodNotAllowed(AdjournError):
    """The route exists, but not for this method."""

    code = "method_not_allowed"
    status = 405


class TooBusy(AdjournError):
    """More work is waiting than the server queues; try again after `retry_after_ms`."""

    code = "too_busy"
    status = 429


class Unavailable(AdjournError):
    """The database cannot be reached now, or the server is stopping; try again after `retry_after_ms`."""

    code = "unavailable"
    status = 503


class StorageFull(AdjournError):
    """The disk or its quota is full; nothing was accepted."""

    code = "storage_full"
    status = 507


class SpoolFull(AdjournError):
    """The spool has reached its limit and is set to refuse rather than drop."""

    code = "spool_full"
    status = 507


class SpoolClosed(AdjournError):
    """The runtime was stopped; events can no longer be captured through it."""

    code = "spool_closed"
    status = 503


class Fenced(AdjournError):
    """Another node owns this session now: its epoch is higher than the writer's."""

    code = "fenced"
    status = 409


class DebitRefused(AdjournError):
    """An account does not hold what a write wanted to take from it."""

    code = "debit_refused"
    status = 402


class DatabaseTooNew(AdjournError):
    """The database was migrated by a newer version than this one; upgrade Adjourn."""

    code = "database_too_new"
    status = 500


class DatabaseCorrupt(AdjournError):
    """The database file fails its own checks; `adjourn db check` says what can be saved."""

    code = "database_corrupt"
    status = 500


class BlockCorrupt(AdjournError):
    """A block of the log fails its checksum; it is reported and skipped."""

    code = "block_corrupt"
    status = 500


class DestinationOutage(AdjournError):
    """A destination cannot be reached or asks to slow down: its cursor waits, no attempt is used up.

    `answered`: it was reached, and answered what it was sent with an error of its own (a 500), so that what it was sent
    may be the reason. `gone`: it says that it wants no more events, ever (a 410)."""

    code = "destination_outage"
    status = 503

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        retry_after_ms: int | None = None,
        answered: bool = False,
        gone: bool = False,
    ) -> None:
        super().__init__(message, path=path, retry_after_ms=retry_after_ms)
        self.answered = answered
        self.gone = gone


class ShapingFailed(AdjournError):
    """A destination's filter or transform fails on an event: a dead letter, with this as its reason."""

    code = "transform_failed"
    status = 422


class ExtraMissing(AdjournError):
    """A feature needs an optional dependency that is not installed; the message says which to install."""

    code = "extra_missing"
    status = 500


class FaultUnavailable(AdjournError):
    """A test asked for a fault that this machine cannot produce; the message says what is missing."""

    code = "fault_unavailable"
    status = 500


class BodySlow(AdjournError):
    """A request's body did not arrive within the time that one may take."""

    code = "body_slow"
    status = 408


class AlreadyExists(AdjournError):
    """Something stands where a backup or a restored database would be put; nothing was overwritten."""

    code = "already_exists"
    status = 409


class SessionExists(AdjournError):
    """A watched session of that id was begun before, by another call."""

    code = "session_exists"
    status = 409


class SessionEnded(AdjournError):
    """A session has its completion: it takes no more messages or heartbeats, and no other completion."""

    code = "session_ended"
    status = 409


class PositionGone(AdjournError):
    """A stream cannot go on where it is asked to: the log was restored or moved since that position was given."""

    code = "position_gone"
    status = 410


class UpstreamUnreachable(AdjournError):
    """The gateway cannot connect to the service that it stands in front of, or had no answer in HTTP from it."""

    code = "upstream_unreachable"
    status = 502


class TargetInvalid(AdjournError):
    """What a request asks the gateway for is no path, or one outside that of its upstream."""

    code = "target_invalid"
    status = 400


class ProtocolUnsupported(AdjournError):
    """A request asks the gateway for what it does not pass on: a WebSocket, or another transfer encoding."""

    code = "protocol_unsupported"
    status = 501


class RunnerRefused(AdjournError):
    """A session's config asks for a runner, model, tool or option that is not there."""

    code = "runner_refused"
    status = 422


class RunnerFailed(AdjournError):
    """A runner cannot begin a session or a turn, or cannot keep or fill a workspace."""

    code = "runner_failed"
    status = 502


class LimitReached(AdjournError):
    """A session, user, tenant or server has used all that a limit allows, or asks for more than it may."""

    code = "limit_reached"
    status = 409


class BudgetReached(AdjournError):
    """What is left of a budget does not pay for another turn."""

    code = "budget_reached"
    status = 402


class PriceUnknown(AdjournError):
    """A session with a budget names a model that has no price."""

    code = "price_unknown"
    status = 422


class TurnRunning(AdjournError):
    """A session runs one turn at a time, and one is running."""

    code = "turn_running"
    status = 409


class RevisionStale(AdjournError):
    """A session has changed since the caller looked at it."""

    code = "revision_stale"
    status = 409


class StatusRefused(AdjournError):
    """What is asked for is not possible in the status that the session has."""

    code = "status_refused"
    status = 409


class KeyReused(AdjournError):
    """An Idempotency-Key came again with another request."""

    code = "key_reused"
    status = 422


class RateLimited(AdjournError):
    """A key or a user has asked more often than it may; try again after `retry_after_ms`."""

    code = "rate_limited"
    status = 429


class TriggerInvalid(AdjournError):
    """A trigger cannot be as it is given: its expression, time zone, path, or the pattern of its session."""

    code = "trigger_invalid"
    status = 422


class MessageConflict(AdjournError):
    """A message came again under the same id, and says something else."""

    code = "message_conflict"
    status = 409


class MessageUnreadable(AdjournError):
    """A stored message is damaged, or was written by a newer version."""

    code = "message_unreadable"
    status = 500


class UpgradeRequired(AdjournError):
    """The address is that of a WebSocket, and the request asks for none."""

    code = "upgrade_required"
    status = 426
