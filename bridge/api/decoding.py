"""JSON bodies and query strings to typed values; what is wrong is named with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from flask import Response, request

from bridge.api.errors import MalformedBody
from bridge.errors import InvalidRequest, TooLarge
from bridge.models.fields import HINTS
from bridge.turns import in_steps

T = TypeVar("T")

_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_RAW_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ERROR: Final = re.compile(r"(.*?)(?: - at (?:`key` in )?`\$([^`]*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_FIELD: Final = re.compile(r"\w+")
_LONGEST_NAME: Final = 80


def body() -> bytes:
    """The body of this request; Flask refuses it with 413 when it is over the limit."""
    return request.get_data(cache=False)


def is_array(data: bytes) -> bool:
    """Whether a JSON text is an array, by its first character."""
    return data.lstrip(b" \t\r\n")[:1] == b"["


def decode(decoder: msgspec.json.Decoder[T], data: bytes, hints: Mapping[str, str] = HINTS) -> T:
    """One JSON value. Raises MalformedBody, InvalidRequest."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _explained(error, "$", hints) from None
    except _NOT_JSON as error:
        raise _not_json(error, data) from None


def decode_many(
    decoder: msgspec.json.Decoder[T], data: bytes, limit: int, hints: Mapping[str, str] = HINTS
) -> list[T | InvalidRequest]:
    """A JSON array, in order; a bad item becomes its own error.

    Raises MalformedBody, InvalidRequest (no array), TooLarge (over ``limit`` items).
    """
    # All by one call would keep every other thread waiting until it is done.
    raw = decode(_RAW_ITEMS, data, hints)
    if len(raw) > limit:
        raise TooLarge(
            f"The array has {len(raw)} items; at most {limit} fit into one request.",
            "Send them in several requests.",
        )
    items: list[T | InvalidRequest] = []
    for at, item in enumerate(in_steps(raw)):
        try:
            items.append(decoder.decode(item))
        except msgspec.ValidationError as error:
            items.append(_explained(error, f"$[{at}]", hints))
        except _NOT_JSON:
            items.append(InvalidRequest(f"$[{at}]: is not JSON in UTF-8."))
    return items


def query(into: type[T], hints: Mapping[str, str]) -> T:
    """The query string as a struct. Raises InvalidRequest, also for unknown parameters."""
    given = request.args.to_dict(flat=False)
    for name, values in given.items():
        if len(values) > 1:
            raise InvalidRequest(f"?{name[:_LONGEST_NAME]}: is given more than once.")
    try:
        return msgspec.convert(
            {name: values[0] for name, values in given.items()}, into, strict=False
        )
    except msgspec.ValidationError as error:
        raise _explained(error, "?", hints) from None


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, mimetype="application/json")


def _not_json(error: Exception, data: bytes) -> MalformedBody:
    if not data:
        return MalformedBody("The body is empty; JSON is needed.")
    if isinstance(error, RecursionError):
        return MalformedBody("The body is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return MalformedBody("The body is not UTF-8.", "JSON is written in UTF-8.")
    # msgspec says where, never what: no part of the body comes back.
    return MalformedBody(f"The body is not JSON: {error}.")


def _explained(
    error: msgspec.ValidationError, root: str, hints: Mapping[str, str]
) -> InvalidRequest:
    """``$[3].cores: expected int, got float.`` and what the field should be."""
    match = _ERROR.fullmatch(str(error))
    what, path = (match[1], match[2] or "") if match else (str(error), "")
    if found := _MISSING.fullmatch(what):
        what, path = "is missing", f"{path}.{found[1]}"
    elif found := _UNKNOWN.fullmatch(what):
        what, path = "is not a known field", f"{path}.{found[1][:_LONGEST_NAME]}"
    elif "matching regex" in what:
        what = "does not have the right form"
    elif what.startswith("Invalid enum value"):
        what = "is not one of the known words"
    else:
        what = what.replace("`", "")
        what = what[:1].lower() + what[1:]
    where = f"?{path[1:]}" if root == "?" else root + path
    field = _FIELD.search(path)
    return InvalidRequest(f"{where}: {what}.", hints.get(field[0], "") if field else "")
