"""A process that does one thing to a database at the given moment, then the next.

Argument: database URL. Each line of input: when (Unix seconds), an API secret, a verb and
its object; each line of output: what came of it.
"""

from __future__ import annotations

import sys
import time
from uuid import UUID

from bridge.core.access import Access
from bridge.core.groups import Groups
from bridge.core.jobs import Jobs
from bridge.core.outlook import Outlook
from bridge.db.engine import Database
from bridge.errors import BridgeError
from bridge.models.identity import Caller
from bridge.models.job import NewJob


class Actor:
    """What a front door would do for a member."""

    def __init__(self, db: Database) -> None:
        self._groups = Groups(db)
        self._jobs = Jobs(db, outlook=Outlook(db, {}))

    def act(self, caller: Caller, verb: str, target: str) -> str:
        match verb:
            case "demote":
                return str(self._groups.set_admin(caller, target, False).admin)
            case "revoke":
                return self._groups.revoke(caller, target).name
            case "add":
                return self._groups.add_user(caller, target, False)[:2]
            case _:
                return str(
                    self._jobs.submit(caller, NewJob(bucket_id=UUID(target), image="a:1")).id
                )


def main(url: str) -> None:
    db = Database(url)
    access, actor = Access(db), Actor(db)
    for line in sys.stdin:
        at, secret, verb, target = line.split()
        try:
            caller = access.by_secret(secret)
            time.sleep(max(float(at) - time.time(), 0))
            print(actor.act(caller, verb, target), flush=True)
        except BridgeError as error:
            print(type(error).__name__, flush=True)
    db.close()


if __name__ == "__main__":
    main(sys.argv[1])
