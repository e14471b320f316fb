"""``bridge.Client``: from a folder to its results, in Python.

boto3 takes longer to load than everything else together, and asking for a
job's state does without it: what needs it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from bridge.client import credentials as credentials_
from bridge.client import waiting
from bridge.client.answers import (
    Activity,
    Attempt,
    Explanation,
    GroupUsage,
    Job,
    Usage,
    User,
    Who,
    decode,
)
from bridge.client.api import Api, Tell
from bridge.client.nodes import Nodes
from bridge.client.sets import Sets
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.client.codes import Code
    from bridge.client.results import Fetched
    from bridge.client.storage import Progress, Storage
    from bridge.client.submission import Outcome, Submitter

S3 = tuple[str, str, str]  # server, access key, secret key
_PAGE: Final = 1000


class JobOptions(TypedDict, total=False):
    """What a job may ask for. ``name`` defaults to the folder's."""

    cores: int  # default 1
    memory_mb: int  # MiB, default 4000
    oom_retry_mb: int  # MiB, up to which to try again after an out-of-memory; default: do not
    time_limit_s: int  # seconds, default one day
    set: str | None  # a name for jobs that belong together
    priority: int  # 1 to 100, default 50; 100 goes first
    hold: bool  # wait in the queue until released
    name: str | None
    labels: Mapping[str, str]


class Client:
    """Submit folders, watch the jobs, fetch the results.

    Addresses and secrets come from the arguments, from a ``credentials`` file
    (by default the one that BRIDGE_CREDENTIALS names), or from the environment:
    ``BRIDGE_*``, then ``LERULI_*``. With ``as_admin`` the admin's secret is used.
    ``tell`` hears, in a sentence, why something takes longer: the service asks to slow
    down or is away, jobs that are waited for are held.

    A client may be used from several threads. Every method raises the errors of
    ``bridge.errors``: Unreachable when service or storage do not answer,
    Unauthenticated or Forbidden when the secret does not suffice, NotFound for
    jobs that do not exist or are somebody else's.
    """

    def __init__(
        self,
        url: str | None = None,
        secret: str | None = None,
        group_token: str | None = None,
        s3: S3 | None = None,
        credentials: str | Path | None = None,
        *,
        as_admin: bool = False,
        tell: Tell | None = None,
    ) -> None:
        server, access, key = s3 or (None, None, None)
        self._credentials = credentials_.load(
            credentials,
            url=url,
            secret=secret,
            group_token=group_token,
            s3_server=server,
            s3_access=access,
            s3_secret=key,
        )
        self._credentials.require("url")
        self._as_admin = as_admin
        self._tell = tell

    # Jobs

    def submit(
        self,
        folder: str | Path,
        image: str,
        command: str | Sequence[str],
        *,
        again: bool = False,
        progress: Progress | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Pack a folder, upload it, hand it in.

        ``command`` runs in the folder: a text is a shell line, a sequence an
        argument list; ``options`` are those of ``JobOptions``. The folder
        remembers its job (``leruli.job``); ``again`` makes a new one.
        ``progress`` hears of uploaded bytes.

        Raises Conflict when the folder was submitted before, FolderError when
        it cannot be packed, InvalidRequest for what the service refuses.
        """
        from bridge.client.submission import Request

        request = Request(image=image, command=command, **options)
        return self._submitter.one(Path(folder), request, again=again, progress=progress)

    def submit_many(
        self,
        folders: Iterable[str | Path],
        image: str,
        command: str | Sequence[str],
        *,
        again: bool = False,
        **options: Unpack[JobOptions],
    ) -> Iterator[Outcome]:
        """Submit many folders with one command; yields an outcome for each.

        Packs and uploads several at a time and hands them in by the thousand.
        Folders that were submitted before are reported with their job. Call it
        again after it was broken off: nothing is submitted twice.

        Raises what concerns all folders; what concerns one is in its outcome. Over a
        quota it takes what fits and then raises OverQuota.
        """
        from bridge.client.submission import Request

        request = Request(image=image, command=command, **options)
        return self._submitter.many(map(Path, folders), request, again=again)

    def status(self, job: str) -> Job:
        """A job as it is now."""
        return decode(self._api.get("jobs", job), Job)

    def list(
        self,
        *,
        state: str | None = None,
        user: str | None = None,
        set: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Own jobs (an admin's: the group's), newest first, read page by page."""
        filters = {"state": state, "user": user, "set": set}
        pages = self._pages(self._api, "jobs", limit, filters)
        return (decode(item, Job) for item in pages)

    def activity(self, limit: int | None = 100) -> Iterator[Activity]:
        """What the group is doing, newest first. The group token suffices."""
        api = self._api_with("group_token" if self._credentials.group_token else "secret")
        return (decode(item, Activity) for item in self._pages(api, "activity", limit, {}))

    def wait(
        self,
        jobs: Iterable[str],
        timeout: float | None = None,
        *,
        report: waiting.Report | None = None,
        lost: waiting.Lost | None = None,
    ) -> Sequence[Job]:
        """Wait until jobs have ended, however; returns them in order.

        ``timeout`` in seconds. ``report`` is called with every job that changed. With
        ``lost``, jobs that do not exist are told to it and left out. Once the service
        has answered, it may be away for ten minutes.

        Raises NotDone when the time is over.
        """
        return waiting.until_ended(
            jobs,
            get=self.status,
            newest=self.list,
            timeout=timeout,
            report=report,
            lost=lost,
            tell=self._tell,
        )

    def get(
        self,
        job: str,
        dest: str | Path,
        *,
        progress: Progress | None = None,
    ) -> Fetched:
        """Fetch the results of an ended job into a folder.

        Every file is checked against the size and SHA-256 that the node recorded.
        Files that are there and right are not fetched again; a broken download
        goes on where it stopped.

        Raises Conflict while the job is live, ResultsError when results are
        missing, damaged or try to leave the folder.
        """
        from bridge.client.results import fetch

        return fetch(self._storage, self.status(job), Path(dest), progress=progress)

    def cancel(self, job: str) -> Job:
        """Ask that a job stops; its partial results are kept. Repeatable."""
        return self._steer(job, "cancel")

    def hold(self, job: str) -> Job:
        """Keep a waiting job from starting. Raises Conflict once it was handed over."""
        return self._steer(job, "hold")

    def release(self, job: str) -> Job:
        """Let a held job start."""
        return self._steer(job, "release")

    def retry(self, job: str) -> Job:
        """Put a failed or canceled job back into the queue.

        Raises Conflict for any other job, and when its data was pruned.
        """
        # Sent once: a repetition would come upon the job as it is then.
        return decode(self._api.post("jobs", job, "retry", repeatable=False), Job)

    def prune(self, job: str) -> Job:
        """Delete the data of an ended job for good. Repeatable.

        Raises Conflict while the job is live.
        """
        return self._delete_data(self._steer(job, "prune"))

    def explain(self, job: str) -> Explanation:
        """Why a job is where it is, above all: why it waits."""
        return decode(self._api.get("jobs", job, "explain"), Explanation)

    def attempts(self, job: str) -> Sequence[Attempt]:
        """The runs of a job, the first one first."""
        return decode(self._api.get("jobs", job, "attempts")["attempts"], tuple[Attempt, ...])

    @cached_property
    def sets(self) -> Sets:
        """Jobs that share a name, as one."""
        return Sets(
            self._api,
            jobs=lambda name: self.list(set=name),
            delete=self._delete_data,
            tell=self._tell,
        )

    # Images

    def codes(self) -> Sequence[Code]:
        """The group's images."""
        from bridge.client.codes import published

        return published(self._storage, self._code_bucket)

    def publish(
        self, image: str, *, replace: bool = False, progress: Progress | None = None
    ) -> Code:
        """Upload a local Docker image ``code:version`` for the group.

        Raises Conflict when it is published already and ``replace`` is not set.
        """
        from bridge.client.codes import publish

        return publish(self._storage, self._code_bucket, image, replace=replace, progress=progress)

    # The group

    def whoami(self) -> Who:
        """Whom the service takes us for."""
        return decode(self._api.get("whoami"), Who)

    def usage(self) -> Sequence[Usage]:
        """What you used, by month; as admin, what everybody in the group did."""
        return decode(self._api.get("usage")["usage"], tuple[Usage, ...])

    def group_usage(self) -> Sequence[GroupUsage]:
        """What the whole group used, by month (admins)."""
        return decode(self._api.get("usage", "group")["usage"], tuple[GroupUsage, ...])

    def users(self) -> Sequence[User]:
        """The members of the group (admins)."""
        return decode(self._api.get("users")["users"], tuple[User, ...])

    def add_user(self, name: str, *, admin: bool = False) -> str:
        """Add a member; returns the API secret, which is shown only this once.

        Raises Conflict when the name is taken.
        """
        body = {"name": name, "admin": admin}
        # Sent once: the answer to a repetition would be "taken", the secret lost.
        answer = self._api.post("users", body=body, repeatable=False)
        return decode(answer["secret"], str)

    def revoke_user(self, name: str) -> User:
        """Close a member's access at once; the member's jobs go on.

        Raises Conflict for the last admin.
        """
        return decode(self._api.delete("users", name), User)

    def rotate_compute_secret(self, *, overlap_s: int | None = None) -> str:
        """Make a new compute secret, shown only this once; the old one ends.

        Nodes that joined with it get jobs for another ``overlap_s`` seconds; None
        leaves that to the service.
        """
        body = None if overlap_s is None else {"overlap_s": overlap_s}
        answer = self._api.post("compute-secret", "rotate", body=body, repeatable=False)
        return decode(answer["secret"], str)

    def is_compute_secret(self, secret: str) -> bool:
        """Whether this is the group's compute secret, and not an old one (admins)."""
        answer = self._api.post("compute-secret", "check", body={"secret": secret})
        return decode(answer["current"], bool)

    @cached_property
    def nodes(self) -> Nodes:
        """The group's machines (admins)."""
        return Nodes(self._api)

    def _steer(self, job: str, verb: str) -> Job:
        return decode(self._api.post("jobs", job, verb), Job)

    def _delete_data(self, job: Job) -> Job:
        """Delete what is announced to be deleted, and confirm it."""
        if job.bucket_id:
            self._storage.delete_bucket(job.bucket_id)
        return decode(self._api.post("jobs", job.id, "prune", body={"deleted": True}), Job)

    @property
    def _code_bucket(self) -> str:
        bucket = self.whoami().code_bucket
        if not bucket:
            raise ConfigError("the service names no code bucket", "Use the secret of a member.")
        return bucket

    @cached_property
    def _api(self) -> Api:
        return self._api_with("admin_secret" if self._as_admin else "secret")

    def _api_with(self, field: str) -> Api:
        self._credentials.require(field)
        given = self._credentials
        return Api(given.url, getattr(given, field), ca_file=given.ca_file, tell=self._tell)

    @cached_property
    def _storage(self) -> Storage:
        from bridge.client.storage import Storage

        given = self._credentials
        given.require("s3_server", "s3_access", "s3_secret")
        return Storage(
            given.s3_server,
            given.s3_access,
            given.s3_secret,
            region=given.s3_region,
            ca_file=given.ca_file,
        )

    @cached_property
    def _submitter(self) -> Submitter:
        from bridge.client.submission import Submitter

        # Before anything is uploaded: is the secret good at all?
        self.whoami()
        return Submitter(self._api, self._storage)

    @staticmethod
    def _pages(
        api: Api, what: str, limit: int | None, filters: dict[str, str | None]
    ) -> Iterator[Any]:
        left, cursor = limit, None
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            answer = api.get(what, limit=size, cursor=cursor, **filters)
            yield from answer[what]
            left = None if left is None else left - len(answer[what])
            cursor = answer.get("next")
            if not cursor:
                return
