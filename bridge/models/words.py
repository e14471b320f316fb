"""Words in sentences for people."""

from __future__ import annotations


def noun(number: int, one: str) -> str:
    """The word for so many of a thing: ``job``, or ``jobs``."""
    return one if number == 1 else f"{one}s"
