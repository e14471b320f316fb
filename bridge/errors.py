"""Every error the bridge raises on purpose.

    BridgeError
    ├── ConfigError             the configuration is wrong; the process cannot start
    ├── Refused                 the caller asked for something that is not done
    │   ├── InvalidRequest      a field is wrong (HTTP 422)
    │   ├── Unauthenticated     no secret, or one that is unknown or revoked (401)
    │   ├── Forbidden           a valid secret that may not do this (403)
    │   ├── NotFound            unknown, or somebody else's: the answer is the same (404)
    │   ├── Conflict            clashes with what is stored (409)
    │   ├── NotReady            a precondition of the group is missing (412)
    │   ├── TooLarge            more than the service takes at once (413)
    │   └── TooMany             slow down, ``retry_after`` seconds (429)
    │       └── OverQuota       more jobs than somebody may have; others have to end first
    ├── Unavailable             a part we need does not answer; nothing was changed
    │   └── ConnectorUnavailable
    ├── LeaseLost               another process leads; nothing was changed
    ├── DatabaseReplaced        the database is no longer the one this process started with
    ├── JobRejected             a scheduler refuses this job and always will
    ├── ClientError             the client side could not do what it was asked
    │   ├── Unreachable         service or storage cannot be reached
    │   ├── FolderError         a job folder cannot be packed or written
    │   ├── ResultsError        results are missing, damaged or lead out of their folder
    │   └── NotDone             jobs have not ended in the time given
    └── ProcessError            a program of ours could not be started or ran too long

Every error has a ``message`` (what is wrong, naming the thing), and most have a
``hint`` (what to do). HTTP status codes live in ``api/errors.py`` only.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Base of all errors raised on purpose; ``str()`` is fit for users."""

    def __init__(self, message: str = "", hint: str = "") -> None:
        self.message = message or (type(self).__doc__ or "").split("\n")[0]
        self.hint = hint
        super().__init__(self.message)


class ConfigError(BridgeError):
    """The configuration cannot be used."""


class Refused(BridgeError):
    """The request is refused and changed nothing."""


class InvalidRequest(Refused):
    """A field of the request is wrong."""


class Unauthenticated(Refused):
    """No valid secret was given."""


class Forbidden(Refused):
    """This secret may not do that."""


class NotFound(Refused):
    """There is no such thing, or it is not yours."""


class Conflict(Refused):
    """This clashes with what is stored."""


class NotReady(Refused):
    """The group is not ready for this."""


class TooLarge(Refused):
    """More than the service takes in one request."""


class TooMany(Refused):
    """Too many requests; ``retry_after`` is in seconds."""

    def __init__(self, message: str = "", hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class OverQuota(TooMany):
    """More jobs than a member or a group may have waiting or running."""


class Unavailable(BridgeError):
    """A part of the service does not answer; nothing was changed."""

    def __init__(self, message: str = "", hint: str = "", retry_after: float = 5.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class ConnectorUnavailable(Unavailable):
    """The scheduler behind a connector cannot be asked now; change nothing, retry.

    ``narrow``: it answers, and refuses this one thing, for example in the namespace of
    one group; whatever else is asked of it may go well.
    """

    def __init__(
        self,
        message: str = "",
        hint: str = "",
        retry_after: float = 5.0,
        *,
        narrow: bool = False,
    ) -> None:
        super().__init__(message, hint, retry_after)
        self.narrow = narrow


class LeaseLost(BridgeError):
    """Another process leads; nothing was changed."""


class DatabaseReplaced(BridgeError):
    """The database was put back to a backup, or replaced, while this process ran."""


class JobRejected(BridgeError):
    """The scheduler refuses this job and always will; tell the user, do not retry."""


class ClientError(BridgeError):
    """The client could not do what it was asked."""


class Unreachable(ClientError):
    """The service or the storage cannot be reached."""


class FolderError(ClientError):
    """A job folder cannot be packed or written."""


class ResultsError(ClientError):
    """Results are missing, damaged or lead out of their folder."""


class NotDone(ClientError):
    """Jobs have not ended in the time given."""


class ProcessError(BridgeError):
    """A program could not be started, or ran longer than its deadline."""
