"""Pages of a list, newest first: a limit, and a cursor for what follows."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bridge.errors import InvalidRequest
from bridge.models.job import Job

_LARGEST: Final = 1000

HINTS: Final = {
    "limit": f"A whole number from 1 to {_LARGEST}.",
    "cursor": "The `next` of the page before.",
}

PageSize = Annotated[int, Meta(ge=1, le=_LARGEST)]


class Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list. ``cursor`` is the ``next`` of the page before."""

    limit: PageSize = 100
    cursor: str | UnsetType = UNSET

    def before(self) -> UUID | None:
        """The id after which the page begins, None for the first page.

        Raises InvalidRequest.
        """
        if self.cursor is UNSET:
            return None
        wanted = canonical_uuid(self.cursor)
        if wanted is None:
            raise InvalidRequest("?cursor: is not one of ours.", HINTS["cursor"])
        return wanted


def cut(jobs: list[Job], limit: int) -> tuple[list[Job], str | None]:
    """One page of a list that was read with ``limit + 1``, and the cursor of the next."""
    if len(jobs) <= limit:
        return jobs, None
    return jobs[:limit], str(jobs[limit - 1].id)


def canonical_uuid(text: str) -> UUID | None:
    """An id as we write it (lower case, hyphens); None for anything else."""
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text else None
