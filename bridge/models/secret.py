"""Secrets: long, random, prefixed by kind, kept only as SHA-256.

The prefix lets a person (and a secret scanner) see what leaked, and lets us
say "this is a compute secret, an API secret is needed" without a look-up.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from enum import StrEnum
from typing import Final


class SecretKind(StrEnum):
    """The prefix of each kind of secret."""

    API = "nbapi"
    COMPUTE = "nbcompute"


# Also what log.py redacts.
SECRET_PATTERN: Final = re.compile(r"\bnb(?:api|compute)_[A-Za-z0-9]{20,}")


def new_secret(kind: SecretKind) -> str:
    """A new secret with 256 random bits, for example ``nbapi_3k…``."""
    body = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    return f"{kind.value}_{body}"


def new_group_token() -> str:
    """A group token: lower case, 26 characters, legal inside a bucket name."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def new_generation() -> str:
    """A generation of nodes: 160 random bits, 32 lower-case letters and digits."""
    return base64.b32encode(secrets.token_bytes(20)).decode().lower()


def kind_of(secret: str) -> SecretKind | None:
    """The kind a secret claims by its prefix, or None."""
    prefix = secret.partition("_")[0]
    return SecretKind(prefix) if prefix in set(SecretKind) else None


def digest(secret: str) -> bytes:
    """SHA-256 of a secret: 32 bytes. The secrets are random, so no salt is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def same(secret: str, stored: bytes) -> bool:
    """Whether ``secret`` is the one behind ``stored``, in constant time."""
    return hmac.compare_digest(digest(secret), stored)
