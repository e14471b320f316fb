"""What a machine needs to become a Nomad client of its group's pool."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from bridge import log
from bridge.connectors.nomad.certificates import Authority, Identity, fixed_pair, trusted
from bridge.connectors.nomad.keeper import NodeKeeper
from bridge.errors import ConfigError, ConnectorUnavailable
from bridge.models.node import Admission, EnrolRequest

_log = log.get(__name__)

# Time to start the Nomad client for the first time; later it has an identity of its own.
_INTRODUCTION_S: Final = 600.0
_OPERATOR_S: Final = 300.0  # nothing changes before the operator acts
# Finished allocations that a node keeps. What they used is uploaded and gone; what is
# left is small, and the reason of a failure is in it.
_KEPT_ALLOCATIONS: Final = 200
# These look for a cloud's own services, at addresses that may hang elsewhere.
_CLOUDS: Final = "env_aws,env_azure,env_digitalocean,env_gce"


class Enrolment(Struct, frozen=True, kw_only=True):
    """How nodes are let in. ``servers`` are HOST:PORT; either the CA's two files or
    the two of the fixed pair are given.
    """

    region: str = "global"
    stage_protocol: int = 1
    servers: tuple[str, ...] = ()
    ca_file: Path | None = None  # what the Nomad servers' certificates are from
    ca_cert_file: Path | None = None
    ca_key_file: Path | None = None
    node_cert_file: Path | None = None
    node_key_file: Path | None = None
    certificate_s: float = 30 * 86400.0

    @property
    def missing(self) -> tuple[str, ...]:
        """The settings without which no node can be let in."""
        signs = (self.ca_cert_file and self.ca_key_file) or self.node_cert_file
        return (
            *(() if self.servers else ("nomad.servers",)),
            *(() if signs else ("nomad.ca_cert_file and nomad.ca_key_file",)),
            *(() if self.ca_file or self.ca_cert_file else ("nomad.ca_file",)),
        )


class Enroller:
    """Makes certificates, introductions and configurations. Raises ConfigError when the
    files that are configured cannot be used; none at all is fine until a node comes.
    """

    def __init__(
        self, enrolment: Enrolment, keeper: NodeKeeper, clock: Callable[[], float] = time.time
    ) -> None:
        self._enrolment = enrolment
        self._keeper = keeper
        self._clock = clock
        self._check()

    def admit(self, request: EnrolRequest) -> Admission:
        """Raises InvalidRequest (the signing request), ConnectorUnavailable."""
        if self._enrolment.missing:
            raise ConnectorUnavailable(
                "This bridge cannot let machines in: it lacks "
                + ", ".join(self._enrolment.missing),
                "Let the operator set them; `nomad-bridge nomad check` says what else is missing.",
                _OPERATOR_S,
            )
        try:
            identity, authorities = self._identity(request), self._trusted()
        except ConfigError as error:
            raise ConnectorUnavailable(error.message, error.hint, _OPERATOR_S) from error
        introduction = self._keeper.introduce(request.name, request.node_pool, _INTRODUCTION_S)
        files = {
            "client.pem": identity.chain,
            "ca.pem": authorities,
            "intro_token.jwt": introduction,
            "bridge.json": json.dumps(agent_settings(request, self._enrolment)) + "\n",
        }
        if identity.key is not None:
            files["client.key"] = identity.key
        _log.info("action=enrol node=%s pool=%s", request.name, request.node_pool)
        return Admission(files=files, expires_at=identity.expires_at)

    def _check(self) -> None:
        given = self._enrolment
        if given.ca_cert_file and given.ca_key_file:
            Authority(given.ca_cert_file, given.ca_key_file)
        if given.node_cert_file and given.node_key_file:
            fixed_pair(given.node_cert_file, given.node_key_file)

    def _identity(self, request: EnrolRequest) -> Identity:
        # From the files each time: certificates are renewed while the bridge runs.
        given = self._enrolment
        if given.ca_cert_file and given.ca_key_file:
            return Authority(given.ca_cert_file, given.ca_key_file).sign(
                request.signing_request,
                region=given.region,
                lifetime_s=given.certificate_s,
                now=self._clock(),
            )
        assert given.node_cert_file is not None
        assert given.node_key_file is not None
        return fixed_pair(given.node_cert_file, given.node_key_file)

    def _trusted(self) -> str:
        given = self._enrolment
        if given.ca_file is not None:
            return trusted(given.ca_file, "nomad.ca_file")
        assert given.ca_cert_file is not None
        return trusted(given.ca_cert_file, "nomad.ca_cert_file")


def agent_settings(request: EnrolRequest, enrolment: Enrolment) -> dict[str, Any]:
    """The part of a Nomad client's configuration that the bridge decides. The node adds
    its folders, addresses, certificate files and what its owner keeps, in a second file.
    """
    return {
        "name": request.name,
        "region": enrolment.region,
        "disable_update_check": True,
        "acl": {"enabled": True},
        "consul": {"client_auto_join": False},
        "tls": {
            "http": True,
            "rpc": True,
            "verify_server_hostname": True,
            "verify_https_client": True,
        },
        "client": {
            "enabled": True,
            "servers": list(enrolment.servers),
            "node_pool": request.node_pool,
            "meta": {
                "bridge_stage": str(enrolment.stage_protocol),
                "bridge_generation": request.generation,
                "bridge_limits": "1" if request.limits else "0",
            },
            "disable_remote_exec": True,
            "max_kill_timeout": "5m",
            "gc_max_allocs": _KEPT_ALLOCATIONS,
            "options": {
                "driver.allowlist": "docker,raw_exec",
                "fingerprint.denylist": _CLOUDS,
            },
        },
        "plugin": [
            {"raw_exec": [{"config": [{"enabled": True}]}]},
            {"docker": [{"config": [_DOCKER]}]},
        ],
    }


_DOCKER: Final = {
    "volumes": [{"enabled": False}],
    # Images are loaded by stage, which also removes the ones that are used least; another
    # Nomad client on the same engine would take our containers for stray ones.
    "gc": [{"image": False, "dangling_containers": [{"enabled": False}]}],
    "extra_labels": ["job_name"],
}
