"""Logging: one line per event, no secret in any of them.

Messages read ``action=submit job=… state=…`` so that people and machines find
their way. Secrets are cut out of the finished line, so no argument, exception
or traceback can carry one past.
"""

from __future__ import annotations

import json as jsonlib
import logging
import sys
import threading
import time
from typing import Final

from bridge.models.secret import SECRET_PATTERN

LEVELS: Final = ("debug", "info", "warning", "error")
_HIDDEN: Final = "[redacted]"
# Registered values shorter than this would black out ordinary words.
_SHORTEST: Final = 6

_values: set[str] = set()
_values_lock: Final = threading.Lock()


def get(name: str) -> logging.Logger:
    """The logger of a module; call it with ``__name__``."""
    return logging.getLogger(name)


def redact(value: str) -> None:
    """From now on ``value`` is cut out of every log line (S3 keys, tokens of others)."""
    if len(value) >= _SHORTEST:
        with _values_lock:
            _values.add(value)


def redacted(text: str) -> str:
    """``text`` without our secrets and without registered values."""
    with _values_lock:
        values = sorted(_values, key=len, reverse=True)
    for value in values:
        text = text.replace(value, _HIDDEN)
    return SECRET_PATTERN.sub(_HIDDEN, text)


def setup(level: str = "info", json: bool = False) -> None:
    """Log to standard error from now on; called again, it replaces what it set.

    ``level`` is one of ``LEVELS`` and counts for the bridge; libraries speak
    from warnings up, because some log requests with their headers below that.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if json else _TextFormatter())
    # What no line of ours shows need not be found out for every one of them
    # (Python's logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bridge").setLevel(level.upper())
    logging.captureWarnings(True)


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class _TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO bridge.core.feeder action=…``."""

    def format(self, record: logging.LogRecord) -> str:
        # One event, one line: a line break in a user's text must not fake another.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname} {record.name} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redacted(line)


class _JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        # Redacted before encoding: escapes would hide a value from the search.
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = redacted(self.formatException(record.exc_info))
        return jsonlib.dumps(entry, ensure_ascii=False)
