"""The table of settings.

Each setting is a field below with its type, default and one line of help. The
table ``SETTINGS`` is derived from the fields; ``config.example.yaml``,
``docs/configuration.md`` and the options of the command line are generated
from the table. ``config.load`` fills it.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from bridge.settings_table import Section, Setting, table

_LOOPBACK_NAMES: Final = ("localhost",)


class Server(Section, frozen=True, kw_only=True):
    """The HTTP service."""

    bind: Annotated[
        str,
        Meta(
            description="Address and port to listen on. Put a TLS proxy in front of any address "
            "that others can reach."
        ),
    ] = "127.0.0.1:8080"
    threads: Annotated[
        int, Meta(ge=1, le=256, description="Requests that are worked on at the same time.")
    ] = 8
    public_url: Annotated[
        str, Meta(description="The URL under which clients reach the service; empty: from bind.")
    ] = ""


class Database(Section, frozen=True, kw_only=True):
    """Where jobs, users and groups are kept."""

    url: Annotated[
        str,
        Meta(
            description="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; empty: the file "
            "bridge.db in data_dir.",
            extra={"secret": True},
        ),
    ] = ""


class Log(Section, frozen=True, kw_only=True):
    """What is written to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least important messages to write."),
    ] = "info"
    json: Annotated[bool, Meta(description="One JSON object per line instead of text.")] = False


class Limits(Section, frozen=True, kw_only=True):
    """What one request, and one job, may ask for."""

    body_bytes: Annotated[
        int, Meta(ge=1024, description="Largest request body in bytes; more is answered with 413.")
    ] = 4_000_000
    bulk_items: Annotated[
        int, Meta(ge=1, le=10_000, description="Most jobs in one submitted array.")
    ] = 1000
    requests_per_minute: Annotated[
        int, Meta(ge=1, description="Requests per secret and minute; more is answered with 429.")
    ] = 120_000
    queued_per_user: Annotated[
        int,
        Meta(
            ge=0,
            description="Most jobs of one user that wait (held ones too) or run; 0: any number.",
        ),
    ] = 0
    queued_per_group: Annotated[
        int,
        Meta(
            ge=0,
            description="Most jobs of a group that wait (held ones too) or run; 0: any number.",
        ),
    ] = 0
    running_per_user: Annotated[
        int, Meta(ge=0, description="Most attempts of one user at once; 0: any number.")
    ] = 0
    running_per_group: Annotated[
        int, Meta(ge=0, description="Most attempts of a group at once; 0: any number.")
    ] = 0
    max_cores: Annotated[int, Meta(ge=1, description="Most cores of one job.")] = 1024
    max_memory_mb: Annotated[int, Meta(ge=1, description="Most memory of one job in MiB.")] = (
        16_777_216
    )
    max_time_limit_s: Annotated[
        int, Meta(ge=1, description="Longest time limit of one job in seconds.")
    ] = 31_536_000


class Queue(Section, frozen=True, kw_only=True):
    """How jobs are handed to schedulers and watched."""

    feed_interval_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds between two looks for jobs that can be handed over; submissions "
            "and ends of jobs do not wait for it.",
        ),
    ] = 0.5
    reconcile_interval_s: Annotated[
        float, Meta(gt=0, description="Seconds between two looks at attempts that are under way.")
    ] = 0.2
    lease_s: Annotated[
        float,
        Meta(
            ge=1,
            description="Of several processes on one database one works the queue; another takes "
            "over when it was not heard of for so many seconds.",
        ),
    ] = 10.0
    claim_ttl_s: Annotated[
        float,
        Meta(gt=0, description="Seconds after which an unconfirmed hand-over is taken up again."),
    ] = 60.0
    reserve_least: Annotated[
        int, Meta(ge=1, description="Attempts of a group that may always wait at the scheduler.")
    ] = 8
    reserve_most: Annotated[
        int, Meta(ge=1, description="Most attempts of a group that may wait at the scheduler.")
    ] = 64
    reserve_total: Annotated[
        int, Meta(ge=1, description="Most attempts of all groups that may wait at a scheduler.")
    ] = 512
    reserve_ahead_s: Annotated[
        float,
        Meta(gt=0, description="Between the two: as many as start within so many seconds."),
    ] = 5.0
    half_life_s: Annotated[
        float,
        Meta(gt=0, description="Seconds after which past use counts half for the fair share."),
    ] = 604_800.0
    retries: Annotated[
        int,
        Meta(ge=0, description="More attempts after a lost node or another fault not the job's."),
    ] = 1
    retry_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds before the first of them; doubled each time, up to an hour.",
        ),
    ] = 10.0
    oom_factor: Annotated[
        float,
        Meta(gt=1, description="Memory of the attempt after an out-of-memory against the last."),
    ] = 1.5
    attempts_at_most: Annotated[
        int, Meta(ge=1, description="Attempts of one job, whatever they end with.")
    ] = 10
    node_lost_after_s: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds out of touch after which a node counts as lost. What ran there is"
            " tried again, unless its time limit is over by then.",
        ),
    ] = 600.0
    gone_grace_s: Annotated[
        float,
        Meta(
            ge=0, description="Seconds an attempt may be unknown to its scheduler before it ends."
        ),
    ] = 30.0
    forget_after_s: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds an ended attempt stays at its scheduler, where it refuses a late "
            "submit of itself; below 600 is for tests.",
        ),
    ] = 600.0
    retention_days: Annotated[
        float,
        Meta(
            ge=0,
            description="Days after its end in which a job is in lists; later it is found by its "
            "id only. 0: for ever.",
        ),
    ] = 90.0
    upload_patience_s: Annotated[
        int, Meta(ge=1, description="Seconds a node keeps trying to upload when storage is away.")
    ] = 3600
    upload_limit_s: Annotated[
        int,
        Meta(ge=1, description="Seconds that uploading the results of a job may take in all."),
    ] = 86400
    stage_in_limit_s: Annotated[
        int, Meta(ge=1, description="Seconds that fetching input and image may take.")
    ] = 3600


class Local(Section, frozen=True, kw_only=True):
    """The connector that runs jobs on this machine."""

    runtime: Annotated[
        Literal["process", "docker"],
        Meta(
            description="docker: every job in a container. process: as plain programs of this "
            "user, WITHOUT ANY ISOLATION."
        ),
    ] = "process"
    allow_remote_process: Annotated[
        bool,
        Meta(description="Let the process runtime run jobs from others than this machine's users."),
    ] = False
    cores: Annotated[int, Meta(ge=0, description="Cores that jobs may use; 0: all.")] = 0
    memory_mb: Annotated[int, Meta(ge=0, description="Memory for jobs in MiB; 0: all.")] = 0
    node_home: Annotated[
        Path | None,
        Meta(description="Folder of the node's programs, keys and runs; empty: node in data_dir."),
    ] = None
    docker_host: Annotated[
        str, Meta(description="Docker engine, for example unix:///run/docker.sock; empty: default.")
    ] = ""
    network: Annotated[bool, Meta(description="Give containers the network.")] = False
    pids_limit: Annotated[
        int, Meta(ge=1, description="Most processes and threads of one container.")
    ] = 4096
    max_unpacked_mb: Annotated[
        int, Meta(ge=1, description="Largest unpacked input of one job in MiB.")
    ] = 102_400
    max_files: Annotated[int, Meta(ge=1, description="Most files in the input of one job.")] = (
        1_000_000
    )


class Nomad(Section, frozen=True, kw_only=True):
    """The connector that hands jobs to a Nomad cluster."""

    address: Annotated[
        str, Meta(description="URL of a Nomad server, for example https://nomad.example:4646.")
    ] = ""
    region: Annotated[str, Meta(min_length=1, description="Nomad region.")] = "global"
    ca_file: Annotated[
        Path | None, Meta(description="CA certificate that the Nomad servers' certificate is from.")
    ] = None
    client_cert: Annotated[
        Path | None, Meta(description="Certificate to show to Nomad servers (mTLS).")
    ] = None
    client_key: Annotated[Path | None, Meta(description="Key of client_cert.")] = None
    token: Annotated[
        str, Meta(description="ACL token; better kept in token_file.", extra={"secret": True})
    ] = ""
    token_file: Annotated[Path | None, Meta(description="File that holds the ACL token.")] = None
    node_token: Annotated[
        str,
        Meta(
            description="A second ACL token that may change nodes; better kept in node_token_file.",
            extra={"secret": True},
        ),
    ] = ""
    node_token_file: Annotated[
        Path | None, Meta(description="File that holds the second ACL token.")
    ] = None
    servers: Annotated[
        tuple[str, ...],
        Meta(description="Where nodes reach the Nomad servers, HOST:PORT of their RPC (4647)."),
    ] = ()
    ca_cert_file: Annotated[
        Path | None, Meta(description="CA certificate whose key signs the nodes' certificates.")
    ] = None
    ca_key_file: Annotated[
        Path | None, Meta(description="Key of ca_cert_file, PEM without a password.")
    ] = None
    node_cert_file: Annotated[
        Path | None, Meta(description="Instead of a CA key: one certificate for every node.")
    ] = None
    node_key_file: Annotated[Path | None, Meta(description="Key of node_cert_file.")] = None
    ui_url: Annotated[
        str, Meta(description="URL of Nomad's web interface, to link to; empty: no links.")
    ] = ""
    job_file: Annotated[
        Path | None,
        Meta(description="Job specification of your own; empty: the shipped job.nomad.hcl."),
    ] = None
    network: Annotated[bool, Meta(description="Give containers the network.")] = False
    request_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds that one request to Nomad may take.")
    ] = 10.0
    sweep_interval_s: Annotated[
        float, Meta(gt=0, description="Seconds between two complete listings of our Nomad jobs.")
    ] = 30.0


class Nodes(Section, frozen=True, kw_only=True):
    """The machines that groups bring, where the scheduler has such."""

    overlap_s: Annotated[
        int,
        Meta(
            ge=0,
            description="Seconds for which nodes go on with jobs after the compute secret was "
            "rotated; 0: until they enrol anew, nothing.",
        ),
    ] = 86_400
    certificate_days: Annotated[
        float, Meta(gt=0, le=30, description="Days that a node's certificate lasts.")
    ] = 30.0
    quarantine_failures: Annotated[
        int,
        Meta(
            ge=0,
            description="Attempts in a row that may fail on a node by no fault of the jobs before "
            "it gets no more; 0: any number.",
        ),
    ] = 5
    inspect_interval_s: Annotated[
        float, Meta(gt=0, description="Seconds between two looks at the nodes.")
    ] = 5.0
    enrolments_per_minute: Annotated[
        int, Meta(ge=1, description="Enrolments per group and minute; more is answered with 429.")
    ] = 30


class Images(Section, frozen=True, kw_only=True):
    """Where the images of jobs may come from, beside the groups' own storage."""

    registries: Annotated[
        tuple[str, ...],
        Meta(
            description="Registries by their hosts, with the port if they have one, for example "
            "ghcr.io or registry.example:5000; * is any. Empty: none."
        ),
    ] = ()


class Storage(Section, frozen=True, kw_only=True):
    """The S3 storage that clients and nodes use; the service itself has no key."""

    embedded: Annotated[
        bool, Meta(description="Serve S3 from a folder in data_dir, for one machine.")
    ] = True
    bind: Annotated[str, Meta(description="Address and port of the embedded storage.")] = (
        "127.0.0.1:9000"
    )
    server: Annotated[
        str, Meta(description="URL of the S3 server for clients; empty: from storage.bind.")
    ] = ""


class Config(Section, frozen=True, kw_only=True):
    """All settings. As loaded, ``database.url`` and ``local.node_home`` are set."""

    data_dir: Annotated[
        Path,
        Meta(description="Folder for everything the service keeps; relative: to this file."),
    ] = Path(".")
    connectors: Annotated[
        tuple[Literal["local", "nomad"], ...],
        Meta(min_length=1, description="The schedulers in use."),
    ] = ("local",)
    server: Server = Server()
    database: Database = Database()
    log: Log = Log()
    limits: Limits = Limits()
    queue: Queue = Queue()
    local: Local = Local()
    nomad: Nomad = Nomad()
    nodes: Nodes = Nodes()
    images: Images = Images()
    storage: Storage = Storage()


def host_port(bind: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:8080`` or ``[::1]:8080``; ValueError otherwise."""
    host, colon, port = bind.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{bind!r} is not HOST:PORT")
    if host.startswith("[") != host.endswith("]") or (":" in host and host[0] != "["):
        raise ValueError(f"{bind!r} needs brackets around an IPv6 address")
    return host.strip("[]"), int(port)


def is_loopback(bind: str) -> bool:
    """Whether a HOST:PORT can be reached from this machine only."""
    host = host_port(bind)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES


# Every setting there is, in the order of the fields above.
SETTINGS: Final[tuple[Setting, ...]] = tuple(table(Config))
