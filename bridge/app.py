"""Wiring: configuration → database, connectors, services. The only place that
names concrete classes.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge import log, process, resources
from bridge.config import Config
from bridge.connectors.base import Connector, Finding
from bridge.connectors.local.connector import LocalConnector
from bridge.connectors.nomad.client import Connection
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.enrol import Enrolment as NomadEnrolment
from bridge.connectors.nomad.jobspec import Settings as NomadSettings
from bridge.core.access import Access
from bridge.core.archive import Archiver
from bridge.core.enrolment import Enrolment
from bridge.core.feeder import Feeder, Pace
from bridge.core.groups import Groups
from bridge.core.images import Images
from bridge.core.jobs import Jobs
from bridge.core.leader import Fenced, Leader
from bridge.core.node_watch import NodeWatch
from bridge.core.nodes import Nodes
from bridge.core.outlook import Limits, Outlook
from bridge.core.pages import Pages
from bridge.core.patience import Patience
from bridge.core.queue import Reserve
from bridge.core.quota import Quota
from bridge.core.readiness import Readiness
from bridge.core.reconcile import Reconciler
from bridge.core.retry import Rules
from bridge.core.selftest import Selftests
from bridge.core.sets import Sets
from bridge.core.tidings import Tidings
from bridge.core.unconfigured import Unconfigured
from bridge.core.usage import Usage
from bridge.core.verdict import Policy
from bridge.db import instance
from bridge.db.engine import Database, Transactions
from bridge.embedded import EmbeddedS3
from bridge.errors import BridgeError, ConfigError


@dataclass(frozen=True)
class Bridge:
    """Everything that runs, wired together."""

    db: Database
    connectors: Mapping[str, Connector]
    access: Access
    jobs: Jobs
    sets: Sets
    groups: Groups
    usage: Usage
    feeder: Feeder
    reconciler: Reconciler
    archiver: Archiver
    enrolment: Enrolment
    selftests: Selftests
    nodes: Nodes
    pages: Pages
    node_watch: NodeWatch
    leader: Leader
    patience: Patience
    tidings: Tidings
    unconfigured: Unconfigured
    readiness: Readiness
    storage: EmbeddedS3 | None
    wake: threading.Event

    def ready(self) -> list[Finding]:
        """What must be true for jobs to be taken, and to move on."""
        return self.readiness.findings()

    def close(self) -> None:
        """Let calls under way finish, then close the database. Jobs go on."""
        self.feeder.close()
        self.leader.release()
        self.db.close()


def open_database(config: Config) -> Database:
    """The database of a configuration, brought up to date. Raises ConfigError, Unavailable."""
    db = Database(config.database.url)
    db.upgrade()
    return db


def build(config: Config) -> Bridge:
    """Wire everything together; starts nothing. Raises ConfigError, Unavailable."""
    db = open_database(config)
    this, prefix, connectors = _begun(config, db)
    wake = threading.Event()
    access = Access(db)
    leader = _leader(config, db, this)
    fenced = Fenced(db, leader)
    patience = Patience()
    tidings = Tidings(leader, patience, connectors)
    unconfigured = Unconfigured(db, connectors)
    feeder = Feeder(fenced, connectors, prefix=prefix, pace=_pace(config), patience=patience)
    jobs, sets = _jobs(config, db, connectors, _outlook(config, db, connectors, tidings), wake)
    return Bridge(
        db=db,
        connectors=connectors,
        access=access,
        jobs=jobs,
        sets=sets,
        groups=Groups(db, overlap_s=config.nodes.overlap_s),
        usage=Usage(db),
        feeder=feeder,
        reconciler=_reconciler(config, fenced, connectors, this.restored_at, patience),
        archiver=Archiver(fenced, retention_s=config.queue.retention_days * 86400),
        enrolment=Enrolment(db, connectors, access),
        selftests=Selftests(db, connectors, access, wake=wake.set),
        nodes=Nodes(db, connectors),
        pages=Pages(connectors, feeder.native_id),
        node_watch=_node_watch(config, fenced, connectors, patience),
        leader=leader,
        patience=patience,
        tidings=tidings,
        unconfigured=unconfigured,
        readiness=Readiness(
            db, connectors, leader=leader, tidings=tidings, unconfigured=unconfigured
        ),
        storage=embedded_storage(config),
        wake=wake,
    )


def _begun(config: Config, db: Database) -> tuple[instance.Instance, str, Mapping[str, Connector]]:
    """Who this bridge is, how its attempts' names begin, its connectors by name."""
    try:
        this = db.write(instance.get_or_create)
        prefix = f"bridge-{this.name}-"
        return this, prefix, {name: _CONNECTORS[name](config, prefix) for name in config.connectors}
    except BridgeError:
        db.close()
        raise


def _outlook(
    config: Config, db: Database, connectors: Mapping[str, Connector], tidings: Tidings
) -> Outlook:
    limits = config.limits
    return Outlook(
        db,
        connectors,
        limits=Limits(per_user=limits.running_per_user, per_group=limits.running_per_group),
        half_life_s=config.queue.half_life_s,
        faults=tidings.faults,
    )


def _jobs(
    config: Config,
    db: Database,
    connectors: Mapping[str, Connector],
    outlook: Outlook,
    wake: threading.Event,
) -> tuple[Jobs, Sets]:
    limits = config.limits
    quota = Quota(per_user=limits.queued_per_user, per_group=limits.queued_per_group)
    images = Images(config.images.registries)
    return (
        Jobs(db, outlook=outlook, quota=quota, images=images, connectors=connectors, wake=wake.set),
        Sets(db, outlook=outlook, quota=quota, wake=wake.set),
    )


def _pace(config: Config) -> Pace:
    queue = config.queue
    return Pace(
        reserve=Reserve(
            least=queue.reserve_least, most=queue.reserve_most, ahead_s=queue.reserve_ahead_s
        ),
        reserve_total=queue.reserve_total,
        claim_ttl_s=queue.claim_ttl_s,
        half_life_s=queue.half_life_s,
        running_per_user=config.limits.running_per_user,
        running_per_group=config.limits.running_per_group,
    )


def _leader(config: Config, db: Database, this: instance.Instance) -> Leader:
    return Leader(
        db,
        # Two bridges may be built in one process.
        holder=f"{process.name_of_this()}/{secrets.token_hex(4)}",
        lease_s=config.queue.lease_s,
        has_ended=lambda holder: process.has_ended(holder.rpartition("/")[0]),
        is_same=lambda conn: instance.is_same(conn, this),
    )


def _reconciler(
    config: Config,
    db: Transactions,
    connectors: Mapping[str, Connector],
    restored_at: float | None,
    patience: Patience,
) -> Reconciler:
    queue = config.queue
    policy = Policy(
        node_lost_after_s=queue.node_lost_after_s,
        gone_grace_s=queue.gone_grace_s,
        call_deadline_s=queue.claim_ttl_s,
        restored_at=restored_at,
    )
    rules = Rules(
        retries=queue.retries,
        delay_s=queue.retry_delay_s,
        oom_factor=queue.oom_factor,
        attempts_at_most=queue.attempts_at_most,
    )
    return Reconciler(
        db,
        connectors,
        policy=policy,
        rules=rules,
        half_life_s=queue.half_life_s,
        forget_after_s=queue.forget_after_s,
        look_every_s=queue.reconcile_interval_s,
        full_look_every_s=config.nomad.sweep_interval_s,
        patience=patience,
    )


def _node_watch(
    config: Config, db: Transactions, connectors: Mapping[str, Connector], patience: Patience
) -> NodeWatch:
    failures = config.nodes.quarantine_failures
    return NodeWatch(db, connectors, quarantine_failures=failures, patience=patience)


def embedded_storage(config: Config) -> EmbeddedS3 | None:
    """The S3 server of the one-machine default, or None where the group brings its own."""
    if not config.storage.embedded:
        return None
    return EmbeddedS3(config.data_dir / "s3", config.storage.bind)


def _local(config: Config, prefix: str) -> Connector:
    local = config.local
    return LocalConnector(
        data_dir=config.data_dir / "local",
        prefix=prefix,
        node_home=local.node_home or config.data_dir / "node",
        stage=resources.path("node-setup/bin/stage"),
        runtime=local.runtime,
        cores=local.cores,
        memory_mb=local.memory_mb,
        docker_host=local.docker_host,
        network=local.network,
        pids_limit=local.pids_limit,
        upload_patience_s=config.queue.upload_patience_s,
        upload_limit_s=config.queue.upload_limit_s,
        stage_in_limit_s=config.queue.stage_in_limit_s,
        max_unpacked_mb=local.max_unpacked_mb,
        max_files=local.max_files,
    )


def nomad_connection(config: Config, token: str) -> Connection:
    """How Nomad is reached, with this ACL token."""
    nomad = config.nomad
    return Connection(
        address=nomad.address,
        region=nomad.region,
        token=token,
        ca_file=nomad.ca_file,
        client_cert=nomad.client_cert,
        client_key=nomad.client_key,
        request_timeout_s=nomad.request_timeout_s,
    )


def nomad_connector(config: Config, prefix: str) -> NomadConnector:
    """The connector for Nomad, for attempts whose ids begin with ``prefix``.

    Raises ConfigError.
    """
    nomad = config.nomad
    token, node_token = nomad_tokens(config)
    settings = NomadSettings(
        region=nomad.region,
        network=nomad.network,
        upload_patience_s=config.queue.upload_patience_s,
        upload_limit_s=config.queue.upload_limit_s,
        stage_in_limit_s=config.queue.stage_in_limit_s,
    )
    return NomadConnector(
        nomad_connection(config, token),
        prefix=prefix,
        settings=settings,
        job_file=nomad.job_file,
        node_token=node_token,
        enrolment=nomad_enrolment(config),
        ui_url=nomad.ui_url,
    )


def nomad_enrolment(config: Config) -> NomadEnrolment:
    """How nodes are let in."""
    nomad = config.nomad
    return NomadEnrolment(
        region=nomad.region,
        servers=nomad.servers,
        ca_file=nomad.ca_file,
        ca_cert_file=nomad.ca_cert_file,
        ca_key_file=nomad.ca_key_file,
        node_cert_file=nomad.node_cert_file,
        node_key_file=nomad.node_key_file,
        certificate_s=config.nodes.certificate_days * 86400,
    )


def nomad_tokens(config: Config) -> tuple[str, str]:
    """The ACL token for jobs, and the one for nodes. Raises ConfigError."""
    nomad = config.nomad
    return (
        _nomad_token(nomad.token, nomad.token_file, "nomad.token_file"),
        _nomad_token(nomad.node_token, nomad.node_token_file, "nomad.node_token_file"),
    )


def _nomad_token(given: str, file: Path | None, setting: str) -> str:
    if file is None:
        return given
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{setting}: cannot read {file}: {exc}.",
            "Let `nomad-bridge nomad setup` make the token, or write one into the file.",
        ) from exc
    log.redact(token)
    return token


# A new connector is one line here; its settings are in settings.py.
_CONNECTORS: Final[Mapping[str, Callable[[Config, str], Connector]]] = {
    "local": _local,
    "nomad": nomad_connector,
}
