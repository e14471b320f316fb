"""What goes wrong in a database, said in this program's own errors.

Nothing of SQLAlchemy or a driver leaves ``db``. Statements and parameters are
never part of a message: they carry bucket ids and hashes.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import exc

from bridge import log
from bridge.errors import BridgeError, Conflict, InvalidRequest, Unavailable

_log = log.get(__name__)

# SQLite result codes and PostgreSQL SQLSTATEs (whole, or the class: two characters).
_HINTS: Final = {
    "SQLITE_FULL": "Free space on the disk that holds the database, then retry.",
    "SQLITE_IOERR": "Look at the disk that holds the database.",
    "SQLITE_BUSY": "Another process holds the database; retry.",
    "SQLITE_LOCKED": "Another process holds the database; retry.",
    "SQLITE_READONLY": "The service must be able to write the database file and its folder.",
    "SQLITE_CANTOPEN": "The service must be able to open the database file and its folder.",
    "SQLITE_CORRUPT": "The database file is damaged; restore a backup.",
    "SQLITE_NOTADB": "The configured file is not a database of this program.",
    "08": "Check that PostgreSQL runs and can be reached.",
    "53": "PostgreSQL is out of disk space, memory or connections.",
    "57": "PostgreSQL ended the statement or is shutting down; retry.",
}
_NO_SCHEMA: Final = "The schema is missing or old; bring it up to date with an upgrade."
_RETRY_STATES: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock


def translate(error: BaseException) -> BaseException:
    """The error to hand to a caller: ours for what the database raised, else unchanged.

    Integrity errors become Conflict, values that do not fit InvalidRequest,
    everything else Unavailable.
    """
    if not isinstance(error, exc.SQLAlchemyError):
        return error
    said = _said(error)
    _log.warning("action=database error=%s said=%s", type(error).__name__, said)
    if isinstance(error, exc.IntegrityError):
        return Conflict("This clashes with what is stored.")
    if isinstance(error, exc.DataError):
        return InvalidRequest("A value does not fit into the database.")
    return Unavailable(f"The database cannot be used now: {said}", _hint(error, said))


def unsure(error: BaseException) -> BridgeError:
    """The error for a commit whose answer was lost."""
    _log.warning("action=database error=%s said=%s", type(error).__name__, _said(error))
    return Unavailable(
        "The database went away while a change was being stored; it may or may not be stored.",
        "Repeat the request: repeating is safe.",
    )


def can_retry(error: BaseException) -> bool:
    """Whether PostgreSQL rolled the transaction back only because of another one."""
    return isinstance(error, exc.DBAPIError) and _code(error) in _RETRY_STATES


def _code(error: BaseException) -> str:
    orig = getattr(error, "orig", None)
    return str(getattr(orig, "sqlstate", None) or getattr(orig, "sqlite_errorname", None) or "")


def _said(error: BaseException) -> str:
    """The driver's first line without its details, which may quote values."""
    if isinstance(error, exc.TimeoutError):
        return "all its connections are busy"
    orig = getattr(error, "orig", None)
    if orig is None:
        return type(error).__name__
    primary = getattr(getattr(orig, "diag", None), "message_primary", None)
    return str(primary or orig).split("\n")[0]


def _hint(error: BaseException, said: str) -> str:
    code = _code(error)
    if code == "42P01" or "no such table" in said or "no such column" in said:
        return _NO_SCHEMA
    if not code and isinstance(error, exc.OperationalError):
        return _HINTS["08"]
    for prefix, hint in _HINTS.items():
        if code.startswith(prefix):
            return hint
    return ""
