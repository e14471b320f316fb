"""A Nomad cluster of the tests' own: one server, one client beside Docker, or two.

As in production: mutual TLS, ACLs, strict introduction of nodes, a bridge token
that may do no more than it must. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from bridge.connectors.nomad.client import Connection
from tests.support.certificates import Authority, Pair
from tests.support.poll import eventually, free_port
from tests.support.s3 import S3

POOL = "g-lab"  # the clients' node pool; a group lab of the bridge has its jobs here
NODE = "node-1"  # the first client, and its node
# What SECURITY.md tells the operator to give the bridge.
BRIDGE_POLICY = """
namespace "g-*" {
  capabilities = ["register-job", "deregister-job", "purge-job", "read-job", "list-jobs",
                  "parse-job"]
}
node { policy = "read" }
"""
_CLOUDS = "env_aws,env_azure,env_digitalocean,env_gce"
_TIMEOUT_S = 90.0


class NomadCluster:
    """Start with ``cluster()``. The node home is ready but for ``bin/stage``'s S3 keys.

    ``cores`` is what a node claims to have (0: what the machine has), ``node`` are more
    settings of the first one's client block, ``volumes`` says whether jobs may mount folders of
    the machine, ``docker_host`` names an engine other than the usual, ``server`` are more
    settings of the servers' block.
    """

    def __init__(
        self,
        home: Path,
        *,
        cores: int = 0,
        node: Mapping[str, Any] | None = None,
        volumes: bool = False,
        docker_host: str = "",
        server: Mapping[str, Any] | None = None,
    ) -> None:
        self.home = home
        self._server = server or {}
        self._cores = cores or os.cpu_count() or 1
        self._more: dict[str, Mapping[str, Any]] = {NODE: node or {}}
        self._volumes = volumes
        self._docker_host = docker_host
        self.node_home = home / "node"
        self.pool = POOL
        self.management_token = str(uuid.uuid4())
        self.bridge_token = ""
        self.authority = Authority(home, "nomad")
        self.ca_file = self.authority.ca_file
        self.bridge_pair = self.authority.issue("bridge.global.nomad")
        self._http, self._rpc, self._serf = free_port(), free_port(), free_port()
        self.address = f"https://127.0.0.1:{self._http}"
        self.servers = (f"127.0.0.1:{self._rpc}",)  # where nodes reach it
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(self.ca_file)
        self._session.cert = (str(self.bridge_pair.cert), str(self.bridge_pair.key))

    def connection(self, **changes: Any) -> Connection:
        """How the bridge reaches this cluster, with its own token."""
        settings: dict[str, Any] = {
            "address": self.address,
            "token": self.bridge_token,
            "ca_file": self.ca_file,
            "client_cert": self.bridge_pair.cert,
            "client_key": self.bridge_pair.key,
        }
        return Connection(**(settings | changes))

    def register_group(self, namespace: str, pool: str = POOL) -> None:
        """Make the namespace and the node pool of a group."""
        self.call("PUT", f"namespace/{namespace}", {"Name": namespace})
        self.call("PUT", f"node/pool/{pool}", {"Name": pool})

    def token_with(self, policy: str, **settings: str) -> str:
        """A new ACL token with just this policy (HCL), and other fields as given."""
        name = f"p-{uuid.uuid4().hex[:8]}"
        self.call("PUT", f"acl/policy/{name}", {"Name": name, "Rules": policy})
        token = self.call("PUT", "acl/token", {"Type": "client", "Policies": [name], **settings})
        return str(token["SecretID"])

    def install_stage(self, node_setup: Path, rclone: str, s3: S3) -> None:
        """Put the stage program, rclone and the S3 keys on the node."""
        for folder in ("bin", "lib"):
            shutil.copytree(node_setup / folder, self.node_home / folder, dirs_exist_ok=True)
        link = self.node_home / "bin" / "rclone"
        link.unlink(missing_ok=True)
        link.symlink_to(rclone)
        keys = self.node_home / "etc" / "s3.conf"
        keys.touch(mode=0o600)
        keys.write_text(f"S3_SERVER={s3.endpoint}\nS3_ACCESS={s3.access}\nS3_SECRET={s3.secret}\n")

    def call(self, method: str, path: str, body: object = None, **params: str) -> Any:
        """An API call with the management token; the decoded answer."""
        answer = self._session.request(
            method,
            f"{self.address}/v1/{path}",
            json=body,
            params=params,
            headers={"X-Nomad-Token": self.management_token},
            timeout=20,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def environment(self) -> dict[str, str]:
        """What Nomad's own program needs to speak with it, as an operator."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "NOMAD_ADDR": self.address,
            "NOMAD_TOKEN": self.management_token,
            "NOMAD_CACERT": str(self.ca_file),
            "NOMAD_CLIENT_CERT": str(self.bridge_pair.cert),
            "NOMAD_CLIENT_KEY": str(self.bridge_pair.key),
        }

    def start(self, *, client: bool = True) -> None:
        """Server, ACLs, the bridge's token, client. Returns when the client is ready."""
        for folder in ("bin", "etc", "var"):
            (self.node_home / folder).mkdir(parents=True)
        self._start_agent("server", self._server_settings())
        eventually(self._has_keys, timeout=_TIMEOUT_S, every=0.1)
        # Refused until a leader is elected.
        eventually(self._bootstrapped, timeout=_TIMEOUT_S, every=0.1)
        self.bridge_token = self.token_with(BRIDGE_POLICY)
        self.register_group(POOL)
        if client:
            self.start_client()

    def start_client(self, name: str = NODE, client: Mapping[str, Any] | None = None) -> None:
        """Start a client (again), with more settings of that block. Returns when its node
        is ready.
        """
        self._more.setdefault(name, client or {})
        if not (self.home / name).exists():
            self._introduce_client(name)
        self._start_agent(name, self._client_settings(name))
        eventually(lambda: self._node_ready(name), timeout=_TIMEOUT_S, every=0.1)

    @contextlib.contextmanager
    def enrolled_client(
        self, name: str, files: Mapping[str, str], key: str, meta: Mapping[str, str] | None = None
    ) -> Iterator[None]:
        """A client that runs with what the bridge gave it and its own ``key`` (PEM), until
        the end; then it is not known any more.
        """
        folder = self.home / name
        folder.mkdir(mode=0o711)
        (folder / "etc").mkdir()
        for file, text in {"client.key": key, **files}.items():
            (folder / "etc" / file).touch(mode=0o600)
            (folder / "etc" / file).write_text(text)
        (folder / "client").mkdir()
        (folder / "etc" / "intro_token.jwt").rename(folder / "client" / "intro_token.jwt")
        own = self._own_settings(name, {"bridge_home": str(self.node_home)} | dict(meta or {}))
        self._start_agent(name, own, folder / "etc" / "bridge.json")
        try:
            yield
        finally:
            if name in self._agents:
                self.kill_client(name)
            for node in self.call("GET", "nodes"):
                if node["Name"] == name:
                    self.call("POST", f"node/{node['ID']}/purge")

    def restart_enrolled(self, name: str) -> None:
        """End an enrolled client at once and start it again with what its files say now."""
        self.kill_client(name)
        own = json.loads((self.home / f"{name}.json").read_text())
        self._start_agent(name, own, self.home / name / "etc" / "bridge.json")

    def _own_settings(self, name: str, meta: dict[str, str]) -> dict[str, Any]:
        """What a node adds to the configuration that the bridge gives it."""
        ports = {"http": free_port(), "rpc": free_port(), "serf": free_port()}
        etc = self.home / name / "etc"
        return {
            "data_dir": str(self.home / name),
            "bind_addr": "127.0.0.1",
            "advertise": {kind: f"127.0.0.1:{port}" for kind, port in ports.items()},
            "ports": ports,
            "tls": {
                "ca_file": str(etc / "ca.pem"),
                "cert_file": str(etc / "client.pem"),
                "key_file": str(etc / "client.key"),
            },
            "client": {
                "meta": meta,
                "network_interface": "lo",
                "cpu_total_compute": 1000 * self._cores,
            },
        }

    def kill_client(self, name: str = NODE) -> None:
        """End a client at once, as a power cut would; containers go on."""
        self._kill(name)

    def restart_server(self) -> None:
        """End the server at once and start it again. Returns when it has a leader."""
        self.kill_server()
        self.start_server()

    def kill_server(self) -> None:
        """End the server at once."""
        self._kill("server")

    def start_server(self) -> None:
        """Start the server again. Returns when it has a leader."""
        self._start_agent("server", self._server_settings())
        eventually(self._has_leader, timeout=_TIMEOUT_S, every=0.1)

    @contextlib.contextmanager
    def frozen(self, name: str = NODE) -> Iterator[None]:
        """A client that is out of touch though its tasks go on, until the end."""
        self._agents[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._agents[name].send_signal(signal.SIGCONT)
            eventually(lambda: self._node_ready(name), timeout=_TIMEOUT_S, every=0.1)

    @contextlib.contextmanager
    def another_client(self, name: str, client: Mapping[str, Any] | None = None) -> Iterator[None]:
        """A second client, with more settings of that block, until the end; then it is not
        known any more.
        """
        self.start_client(name, client)
        try:
            yield
        finally:
            self.kill_client(name)
            self.call("POST", f"node/{self.node(name)['ID']}/purge")

    def node(self, name: str = NODE) -> dict[str, Any]:
        """The node of a client."""
        found = [node for node in self.call("GET", "nodes") if node["Name"] == name]
        return dict(max(found, key=lambda node: node["CreateIndex"]))

    def stop(self) -> None:
        """Stop all jobs, let the clients clean up, end all agents."""
        try:
            if NODE in self._agents:
                self._purge_everything()
        finally:
            for agent in reversed(self._agents.values()):
                agent.terminate()
            for agent in self._agents.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(timeout=10)
                agent.kill()
                agent.wait(timeout=10)
            self._session.close()
            self._unmount()

    def _unmount(self) -> None:
        """The secrets folders that a killed root client leaves behind."""
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        below = [point for point in points if point.startswith(f"{self.home}/")]
        for point in sorted(below, reverse=True):
            subprocess.run(["umount", point], check=False, timeout=20)

    def pid(self, name: str) -> int:
        """The process of an agent: ``server``, or a client by its name."""
        return self._agents[name].pid

    def log(self, name: str) -> str:
        """What an agent has logged."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def _purge_everything(self) -> None:
        jobs = self.call("GET", "jobs", namespace="*")
        for job in jobs:
            self.call("DELETE", f"job/{job['ID']}", namespace=job["Namespace"], purge="true")
        patience = len(jobs) / 2
        eventually(self._all_over, timeout=120 + patience, every=0.1)
        # Unmounts the secrets directories that a root client has mounted.
        self.call("PUT", "system/gc")
        allocs = self.home / NODE / "alloc"
        eventually(lambda: not any(allocs.iterdir()), timeout=120 + patience, every=0.1)

    def _all_over(self) -> bool:
        allocs = self.call("GET", "allocations", namespace="*")
        return all(
            task["State"] == "dead"
            for alloc in allocs
            if alloc["ClientStatus"] in ("pending", "running")
            for task in (alloc["TaskStates"] or {"": {"State": "pending"}}).values()
        )

    def _has_keys(self) -> bool:
        self._assert_alive("server")
        try:
            answer = self._session.get(f"{self.address}/.well-known/jwks.json", timeout=5)
        except requests.RequestException:
            return False
        return answer.ok and bool(answer.json().get("keys"))

    def _bootstrapped(self) -> bool:
        try:
            answer = self._session.post(
                f"{self.address}/v1/acl/bootstrap",
                json={"BootstrapSecret": self.management_token},
                timeout=10,
            )
        except requests.RequestException:
            return False
        # By the call before, whose answer did not come in time.
        return answer.ok or "already done" in answer.text

    def _has_leader(self) -> bool:
        self._assert_alive("server")
        with contextlib.suppress(requests.RequestException, AssertionError):
            return bool(self.call("GET", "status/leader"))
        return False

    def _node_ready(self, name: str) -> bool:
        self._assert_alive(name)
        try:
            nodes = self.call("GET", "nodes", resources="true")
        except requests.RequestException:
            return False
        return any(
            node["Name"] == name
            and node["Status"] == "ready"
            and all(node["Drivers"].get(name, {}).get("Healthy") for name in ("docker", "raw_exec"))
            for node in nodes
        )

    def _assert_alive(self, name: str) -> None:
        assert self._agents[name].poll() is None, self.log(name)

    def _kill(self, name: str) -> None:
        agent = self._agents.pop(name)
        agent.kill()
        agent.wait(timeout=_TIMEOUT_S)

    def _introduce_client(self, name: str) -> None:
        pool = self._more[name].get("node_pool", self.pool)
        wanted = {"NodePool": pool, "NodeName": name, "TTL": "10m"}
        token = self.call("POST", "acl/identity/client-introduction-token", wanted)["JWT"]
        file = self.home / name / "client" / "intro_token.jwt"
        file.parent.mkdir(parents=True)
        file.touch(mode=0o600)
        file.write_text(token)
        # Docker must be able to enter the allocations' folder.
        (self.home / name).chmod(0o711)

    def _start_agent(self, name: str, settings: dict[str, Any], *before: Path) -> None:
        """Start an agent by ``settings``, which are merged over those of files ``before``."""
        config = self.home / f"{name}.json"
        config.write_text(json.dumps(settings))
        configs = [word for file in (*before, config) for word in ("-config", str(file))]
        kept = ("PATH", "DOCKER_HOST", "XDG_RUNTIME_DIR")
        env = {key: os.environ[key] for key in kept if key in os.environ}
        if self._docker_host:
            env["DOCKER_HOST"] = self._docker_host
        with open(self.home / f"{name}.log", "ab") as log:
            # Nothing of our environment: a stray AWS_CA_BUNDLE alone stops an agent.
            self._agents[name] = subprocess.Popen(
                ["nomad", "agent", *configs],
                env=env | {"HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _server_settings(self) -> dict[str, Any]:
        ports = {"http": self._http, "rpc": self._rpc, "serf": self._serf}
        return self._common("server", self.authority.issue("server.global.nomad"), ports) | {
            "server": {
                "enabled": True,
                "bootstrap_expect": 1,
                "client_introduction": {"enforcement": "strict"},
                # A lost node is to be noticed within seconds.
                "min_heartbeat_ttl": "1s",
                "heartbeat_grace": "5s",
                "raft_multiplier": 1,
                **self._server,
            },
        }

    def _client_settings(self, name: str) -> dict[str, Any]:
        more = dict(self._more[name])
        meta = {"bridge_home": str(self.node_home), "bridge_stage": "1", **more.pop("meta", {})}
        ports = {"http": free_port(), "rpc": free_port(), "serf": free_port()}
        return self._common(name, self.authority.issue("client.global.nomad"), ports) | {
            "name": name,
            "client": {
                "enabled": True,
                "servers": list(self.servers),
                "node_pool": self.pool,
                "network_interface": "lo",
                "meta": meta,
                "cpu_total_compute": 1000 * self._cores,
                "max_kill_timeout": "5m",
                "disable_remote_exec": True,
                "options": {"fingerprint.denylist": _CLOUDS},
                **more,
            },
            "plugin": [
                {"raw_exec": [{"config": [{"enabled": True}]}]},
                {"docker": [{"config": [_docker(volumes=self._volumes)]}]},
            ],
        }

    def _common(self, name: str, pair: Pair, ports: dict[str, int]) -> dict[str, Any]:
        return {
            "data_dir": str(self.home / name),
            "bind_addr": "127.0.0.1",
            "advertise": {kind: f"127.0.0.1:{port}" for kind, port in ports.items()},
            "ports": ports,
            "disable_update_check": True,
            "log_level": "INFO",
            "acl": {"enabled": True, "token_min_expiration_ttl": "1s"},
            "tls": {
                "http": True,
                "rpc": True,
                "ca_file": str(self.ca_file),
                "cert_file": str(pair.cert),
                "key_file": str(pair.key),
                "verify_server_hostname": True,
                "verify_https_client": True,
            },
        }


def _docker(*, volumes: bool) -> dict[str, Any]:
    return {
        "volumes": [{"enabled": volumes}],
        "gc": [{"image": False, "dangling_containers": [{"enabled": False}]}],
        "extra_labels": ["job_name"],
    }


@contextlib.contextmanager
def cluster(*, client: bool = True, **settings: Any) -> Iterator[NomadCluster]:
    """Run a cluster until the end, with or without a ``client`` of its own; for ``settings``
    see ``NomadCluster``. Its folder has a short name: Nomad makes unix sockets deep below
    it, whose paths may have 107 characters.
    """
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as folder:
        running = NomadCluster(Path(folder), **settings)
        try:
            running.start(client=client)
            yield running
        finally:
            running.stop()
