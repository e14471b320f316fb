"""Why a job is where it is."""

from __future__ import annotations

import msgspec


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence for people, and the numbers behind it.

    ``ahead`` is how many waiting jobs of the group come before this one by
    priority and age (fair share may change that), or None for a job that does
    not wait; ``details`` has what else the sentence says, by name.
    """

    sentence: str
    ahead: int | None = None
    details: dict[str, object] = {}
