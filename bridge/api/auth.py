"""Who sends a request: a secret becomes a Caller, within its rate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flask import request

from bridge.api.services import services
from bridge.errors import TooMany, Unauthenticated
from bridge.models.identity import Caller
from bridge.models.secret import SECRET_PATTERN, SecretKind, digest, kind_of

# RFC 6750, section 2.1.
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
# Only what can be a group token is looked up.
_TOKEN: Final = re.compile(r"[a-z0-9-]{1,58}")
_HOW: Final = "Send the header: Authorization: Bearer <secret>"
_SECRET_NAMES: Final = frozenset(
    {"access_token", "adminsecret", "api_key", "apikey", "authorization", "secret", "token"}
)


def caller(in_body: str | None = None) -> Caller:
    """Who sends this request: by the secret a dialect has in its body, or by the header.

    Raises Unauthenticated, TooMany.
    """
    _refuse_secret_in_url()
    secret = bearer() if in_body is None else in_body
    if secret is None:
        raise _failed(Unauthenticated("A secret is needed.", _HOW))
    # By secret and before any look-up: a caller in a loop costs next to nothing.
    services().requests.take(digest(secret))
    try:
        return _known(secret)
    except Unauthenticated as error:
        raise _failed(error) from None


@contextmanager
def node_secret() -> Iterator[str]:
    """The secret by which a machine is let in; what is done with it may find it wrong.

    Raises Unauthenticated, TooMany.
    """
    _refuse_secret_in_url()
    secret = bearer()
    if secret is None:
        raise _failed(Unauthenticated("The compute secret of the group is needed.", _HOW))
    services().requests.take(digest(secret))
    try:
        yield secret
    except Unauthenticated as error:
        raise _failed(error) from None


def bearer() -> str | None:
    """The secret in the Authorization header, or None. Raises Unauthenticated."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    match = _BEARER.fullmatch(header.strip())
    if match is None:
        raise _failed(Unauthenticated("The Authorization header is not a Bearer token.", _HOW))
    return match[1]


def _known(secret: str) -> Caller:
    """An API secret's user, or a group token's reader; the core says what a reader may not."""
    access = services().bridge.access
    if kind_of(secret) is not None:
        return access.by_secret(secret)
    try:
        if _TOKEN.fullmatch(secret):
            return access.by_group_token(secret)
    except Unauthenticated:
        pass  # told below: who sent it most likely meant an API secret
    raise Unauthenticated(
        "This is neither a known API secret nor a known group token.",
        f"An API secret begins with {SecretKind.API}_.",
    )


def _failed(error: Unauthenticated) -> Unauthenticated:
    """Count a failed authentication of this address; ``error`` unless it is one too many.

    Only failures are refused here: behind a proxy all callers share one address,
    and one script with an old secret must not lock out the others.
    Raises TooMany.
    """
    try:
        services().failures.take(request.remote_addr or "")
    except TooMany as many:
        raise TooMany(
            "Too many requests without a valid secret from this address.",
            f"{error.message} Go on in {many.retry_after:.0f} s.",
            many.retry_after,
        ) from None
    return error


def _refuse_secret_in_url() -> None:
    for name, value in request.args.items(multi=True):
        if name.lower() in _SECRET_NAMES or SECRET_PATTERN.search(value):
            raise _failed(
                Unauthenticated(
                    "A secret in the URL is not accepted: URLs end up in logs and histories.",
                    f"{_HOW}; replace the one you sent.",
                )
            )
