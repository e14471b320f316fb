"""Makes what the bridge needs at Nomad: namespaces, node pools, ACL policies, two tokens.

Done again it changes nothing. It needs a management token, which is used and not kept.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec import Struct, field, structs

from bridge import log
from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.errors import ConfigError, ConnectorUnavailable

BRIDGE_POLICY: Final = "nomad-bridge"
NODES_POLICY: Final = "nomad-bridge-nodes"
MANAGEMENT: Final = "NOMAD_TOKEN"  # the environment variable, as Nomad's own program has it

_CAPABILITIES: Final = (
    "register-job",
    "deregister-job",
    "purge-job",
    "read-job",
    "list-jobs",
    "parse-job",
)
_NODES_RULES: Final = 'node {\n  policy = "write"\n}\n'
_GRANTED: Final = re.compile(r'^namespace "([^"]+)"', re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


class Did(StrEnum):
    """What became, or would become, of a thing."""

    KEPT = "kept"
    MADE = "made"
    CHANGED = "changed"
    SKIPPED = "skipped"


class Step(Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    did: Did
    detail: str = ""


class Place(Struct, frozen=True):
    """Where the jobs of a group go."""

    group: str
    namespace: str
    node_pool: str


class TokenPlace(Struct, frozen=True):
    """Where the bridge finds one of its tokens: in a file, or as a value it was given."""

    setting: str  # of the file
    policy: str
    file: Path | None
    given: str = ""


class Policy(Struct, frozen=True, rename="pascal"):
    """An ACL policy."""

    rules: str = ""


class Made(Struct, frozen=True):
    """A token that was just made, the only time its secret is shown."""

    secret: str = field(name="SecretID")


class SetupClient(NomadClient):
    """A client with a management token. Each call raises ConnectorUnavailable."""

    def __init__(self, connection: Connection, management_token: str) -> None:
        given = structs.replace(connection, token=management_token, from_setting=MANAGEMENT)
        super().__init__(given)

    def exists(self, path: str, missing: str) -> bool:
        """Whether there is a thing at ``path``; Nomad says ``missing`` when not."""
        found = self._find(
            f"show {path}", lambda: self._send("GET", path).json(), dict, none_if=missing
        )
        return found is not None

    def policy(self, name: str) -> str | None:
        """The rules of a policy, or None."""
        path = f"acl/policy/{name}"
        found = self._find(
            f"show the policy {name}",
            lambda: self._send("GET", path).json(),
            Policy,
            none_if="ACL policy not found",
        )
        return found.rules if found is not None else None

    def put(self, path: str, body: dict[str, str]) -> None:
        """Make or change the thing at ``path``."""
        self._call(f"make {path}", lambda: self._send("PUT", path, body).text, str)

    def make_token(self, policy: str) -> str:
        """A new token that may do what a policy says."""
        body = {"Name": policy, "Type": "client", "Policies": [policy]}
        made = self._call(
            f"make a token for {policy}", lambda: self._send("PUT", "acl/token", body).json(), Made
        )
        return made.secret

    def bears(self, token: str, policy: str) -> bool:
        """Whether Nomad knows a token that has this policy, or every right."""
        try:
            known = NomadClient(structs.replace(self._connection, token=token)).token()
        except ConnectorUnavailable:
            return False  # unknown or expired; were Nomad away, we had not come so far
        return known is not None and (
            known.type == "management" or policy in (known.policies or ())
        )


def setup(
    client: SetupClient,
    places: Sequence[Place],
    tokens: Sequence[TokenPlace],
    *,
    dry_run: bool = False,
) -> Iterator[Step]:
    """Look at each thing and make what is missing; with ``dry_run`` only say so.

    Raises ConfigError, ConnectorUnavailable; what was done until then stays.
    """
    _check(places, tokens)
    with_acls = _is_management(client)
    for place in places:
        yield _thing(
            client,
            f"namespace/{place.namespace}",
            "Namespace not found",
            {"Name": place.namespace, "Description": f"Jobs of the group {place.group}"},
            dry_run,
        )
        yield _thing(
            client,
            f"node/pool/{place.node_pool}",
            "node pool not found",
            {"Name": place.node_pool, "Description": f"Machines of the group {place.group}"},
            dry_run,
        )
    if not with_acls:
        yield Step("policies and tokens", Did.SKIPPED, "Nomad runs without ACLs")
        return
    rules = bridge_rules({place.namespace for place in places}, client.policy(BRIDGE_POLICY) or "")
    yield _policy(client, BRIDGE_POLICY, rules, dry_run)
    yield _policy(client, NODES_POLICY, _NODES_RULES, dry_run)
    for token in tokens:
        yield _token(client, token, dry_run)


def bridge_rules(namespaces: set[str], before: str = "") -> str:
    """The rules for the bridge's own token: jobs in its groups' namespaces, the ones that
    were granted ``before`` included, and a look at all nodes.
    """
    capabilities = ", ".join(f'"{one}"' for one in _CAPABILITIES)
    granted = sorted(namespaces | set(_GRANTED.findall(before)))
    blocks = [f'namespace "{one}" {{\n  capabilities = [{capabilities}]\n}}\n' for one in granted]
    return "\n".join([*blocks, 'node {\n  policy = "read"\n}\n'])


def _check(places: Sequence[Place], tokens: Sequence[TokenPlace]) -> None:
    for place in places:
        for name in (place.namespace, place.node_pool):
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"the group {place.group!r} leads to the name {name!r}, which Nomad does "
                    "not take",
                    "Use letters, digits, - and _.",
                )
    for token in tokens:
        if token.file is None and not token.given:
            raise ConfigError(
                f"{token.setting} is not set", "Name a file there, into which the token is written."
            )


def _is_management(client: SetupClient) -> bool:
    """False where Nomad runs without ACLs."""
    token = client.token()
    if token is None:
        return False
    if token.type != "management":
        raise ConfigError(
            f"the token in {MANAGEMENT} is no management token",
            "Use the one of `nomad acl bootstrap`, or another of type management.",
        )
    return True


def _thing(
    client: SetupClient, path: str, missing: str, body: dict[str, str], dry_run: bool
) -> Step:
    what = path.replace("/", " ")
    if client.exists(path, missing):
        return Step(what, Did.KEPT)
    if not dry_run:
        client.put(path, body)
    return Step(what, Did.MADE)


def _policy(client: SetupClient, name: str, rules: str, dry_run: bool) -> Step:
    before = client.policy(name)
    if before == rules:
        return Step(f"policy {name}", Did.KEPT)
    if not dry_run:
        client.put(f"acl/policy/{name}", {"Name": name, "Rules": rules})
    return Step(f"policy {name}", Did.MADE if before is None else Did.CHANGED, _short(rules))


def _short(rules: str) -> str:
    return " ".join(rules.split())


def _token(client: SetupClient, token: TokenPlace, dry_run: bool) -> Step:
    what = f"token for {token.policy}"
    if token.file is None:
        if not client.bears(token.given, token.policy):
            raise ConfigError(
                f"the token given instead of {token.setting} lacks the policy {token.policy}",
                f"Name a file in {token.setting}, into which a token is written.",
            )
        return Step(what, Did.KEPT, "as configured")
    before = _read(token)
    if before and client.bears(before, token.policy):
        return Step(what, Did.KEPT, str(token.file))
    if not dry_run:
        with _private(token.file) as write:
            # Made only once it can be written.
            secret = client.make_token(token.policy)
            log.redact(secret)
            os.write(write, f"{secret}\n".encode())
    return Step(what, Did.CHANGED if before else Did.MADE, str(token.file))


def _read(token: TokenPlace) -> str:
    assert token.file is not None
    try:
        return token.file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{token.setting}: cannot read {token.file}: {error}", "Correct the path."
        ) from error


@contextmanager
def _private(path: Path) -> Iterator[int]:
    """A file for its owner alone, which gets its name when the block ends well."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be made: {error.strerror}", "Make its folder, or name another file."
        ) from error
    try:
        yield descriptor
        os.fsync(descriptor)
        Path(name).replace(path)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            Path(name).unlink()
