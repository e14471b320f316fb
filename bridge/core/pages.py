"""Where admins find jobs in a scheduler's own web interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

from bridge.connectors.base import Connector, Links
from bridge.models.attempt import Attempt, Handle
from bridge.models.identity import Caller, Role
from bridge.models.job import Job


class Pages:
    """URLs for admins; None for others, and where the scheduler has no such interface.
    ``native_id`` names an attempt at its scheduler.
    """

    def __init__(
        self, connectors: Mapping[str, Connector], native_id: Callable[[UUID, int], str]
    ) -> None:
        self._connectors = connectors
        self._native_id = native_id

    def of_job(self, caller: Caller, job: Job) -> str | None:
        """The page of a job's last attempt."""
        if job.attempt == 0:
            return None
        handle = Handle(self._native_id(job.id, job.attempt), caller.group.namespace)
        return self._page(caller, caller.group.connector, handle)

    def of_attempt(self, caller: Caller, attempt: Attempt) -> str | None:
        """The page of one attempt."""
        handle = Handle(attempt.native_id, attempt.namespace)
        return self._page(caller, attempt.connector, handle)

    def _page(self, caller: Caller, name: str, handle: Handle) -> str | None:
        connector = self._connectors.get(name)
        if caller.role is not Role.ADMIN or not isinstance(connector, Links):
            return None
        return connector.job_url(handle)
