"""Of a signing request only the public key is used."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from bridge.connectors.nomad.certificates import Authority as NodeAuthority
from bridge.connectors.nomad.certificates import Identity, fixed_pair
from bridge.errors import BridgeError, ConfigError, ConnectorUnavailable, InvalidRequest
from tests.support.certificates import Authority, named, request_for

DAY = 86400.0
NOW = dt.datetime.now(dt.UTC).timestamp()
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "nomad", lifetime_days=60)


@pytest.fixture(scope="module")
def nodes(authority: Authority) -> NodeAuthority:
    return NodeAuthority(authority.ca_file, authority.key_file)


def signed(
    nodes: NodeAuthority,
    request: str,
    *,
    region: str = "global",
    lifetime_s: float = DAY,
    now: float = NOW,
) -> Identity:
    return nodes.sign(request, region=region, lifetime_s=lifetime_s, now=now)


def leaf(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.chain.encode())


def extension(cert: x509.Certificate, kind: type[x509.ExtensionType]) -> Any:
    return cert.extensions.get_extension_for_class(kind).value


def assert_it_is_a_client(cert: x509.Certificate, region: str = "global") -> None:
    role = f"client.{region}.nomad"
    assert cert.subject == named(role)
    names = extension(cert, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [role, "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert len(list(names)) == 3
    assert extension(cert, x509.BasicConstraints) == x509.BasicConstraints(False, None)
    usage = extension(cert, x509.KeyUsage)
    assert usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign
    assert set(extension(cert, x509.ExtendedKeyUsage)) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }


def test_a_client_of_the_region_signed_by_the_ca(
    nodes: NodeAuthority, authority: Authority
) -> None:
    identity = signed(nodes, request_for(KEY), region="eu")
    cert = leaf(identity)
    assert_it_is_a_client(cert, "eu")
    ca = x509.load_pem_x509_certificate(authority.ca_file.read_bytes())
    cert.verify_directly_issued_by(ca)
    issuer_key = extension(cert, x509.AuthorityKeyIdentifier).key_identifier
    assert issuer_key == extension(ca, x509.SubjectKeyIdentifier).digest
    assert cert.public_key() == KEY.public_key()
    assert identity.key is None
    assert identity.chain.count("BEGIN CERTIFICATE") == 1


def test_it_lasts_as_long_as_it_is_told_and_not_longer_than_the_ca(nodes: NodeAuthority) -> None:
    month = signed(nodes, request_for(KEY), lifetime_s=30 * DAY)
    assert month.expires_at == pytest.approx(NOW + 30 * DAY, abs=1)
    assert leaf(month).not_valid_after_utc.timestamp() == month.expires_at
    # Clocks differ by minutes.
    assert leaf(month).not_valid_before_utc.timestamp() == pytest.approx(NOW - 300, abs=1)
    assert signed(nodes, request_for(KEY), lifetime_s=90 * DAY).expires_at == nodes.expires_at
    with pytest.raises(ConnectorUnavailable, match="expired"):
        signed(nodes, request_for(KEY), now=nodes.expires_at)


def test_every_certificate_has_a_number_of_its_own(nodes: NodeAuthority) -> None:
    numbers = {leaf(signed(nodes, request_for(KEY))).serial_number for _ in range(3)}
    assert len(numbers) == 3


@pytest.mark.parametrize(
    "wish",
    [
        x509.SubjectAlternativeName([x509.DNSName("server.global.nomad")]),
        x509.SubjectAlternativeName([x509.DNSName("*.global.nomad")]),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        x509.KeyUsage(True, False, False, False, False, True, True, False, False),
        x509.NameConstraints([x509.DNSName("nomad")], None),
    ],
    ids=lambda wish: type(wish).__name__,
)
def test_what_a_request_asks_for_is_not_given(
    nodes: NodeAuthority, wish: x509.ExtensionType
) -> None:
    asked = request_for(KEY, "server.global.nomad", wish)
    assert "server" in str(x509.load_pem_x509_csr(asked.encode()).subject)
    identity = signed(nodes, asked)
    assert_it_is_a_client(leaf(identity))
    assert b"server" not in leaf(identity).tbs_certificate_bytes
    with pytest.raises(x509.ExtensionNotFound):
        extension(leaf(identity), x509.NameConstraints)


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        (ec.generate_private_key(ec.SECP384R1()), True),
        (rsa.generate_private_key(65537, 2048), True),
        (rsa.generate_private_key(65537, 1024), False),
        (ec.generate_private_key(ec.SECP224R1()), False),
        (ec.generate_private_key(ec.SECP521R1()), False),
        (ed25519.Ed25519PrivateKey.generate(), False),  # Nomad does not start with it
    ],
    ids=["P-384", "RSA-2048", "RSA-1024", "P-224", "P-521", "Ed25519"],
)
def test_kinds_of_keys(nodes: NodeAuthority, key: Any, taken: bool) -> None:
    if taken:
        assert leaf(signed(nodes, request_for(key))).public_key() == key.public_key()
        return
    with pytest.raises(InvalidRequest, match="signing_request"):
        signed(nodes, request_for(key))


def test_a_request_is_signed_by_the_key_that_it_names(nodes: NodeAuthority) -> None:
    """Else somebody could have a certificate made for another's public key."""
    stolen = ec.generate_private_key(ec.SECP256R1()).public_key()
    honest = x509.load_pem_x509_csr(request_for(KEY).encode())
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = honest.public_bytes(serialization.Encoding.DER).replace(
        KEY.public_key().public_bytes(*form), stolen.public_bytes(*form)
    )
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(InvalidRequest, match="signature"):
        signed(nodes, pem)


def armoured(raw: bytes) -> str:
    lines = base64.encodebytes(raw).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n"


@given(text=st.text(max_size=300) | st.binary(max_size=300).map(armoured))
def test_anything_else_is_refused(text: str, nodes: NodeAuthority) -> None:
    with pytest.raises(InvalidRequest, match="signing_request"):
        signed(nodes, text)


def test_a_long_request_is_not_even_read(nodes: NodeAuthority) -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        signed(nodes, request_for(KEY) + "\n" * 20_000)


def test_an_intermediate_ca_is_part_of_the_chain(tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    below = root.below("nodes")
    identity = signed(NodeAuthority(below.ca_file, below.key_file), request_for(KEY))
    issued, middle = x509.load_pem_x509_certificates(identity.chain.encode())
    issued.verify_directly_issued_by(middle)
    assert middle.subject == named("nodes CA")


def test_files_that_cannot_sign_are_refused_at_once(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("client.global.nomad")
    other = Authority(tmp_path, "other")
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        KEY.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    for cert, key, words in (
        (tmp_path / "none.pem", authority.key_file, "ca_cert_file: cannot read"),
        (bad, authority.key_file, "ca_cert_file: .* holds no certificate"),
        (authority.ca_file, bad, "ca_key_file: .* no private key"),
        (authority.ca_file, locked, "ca_key_file: .* no private key"),
        (authority.ca_file, other.key_file, "not that of the certificate"),
        (pair.cert, pair.key, "not the certificate of a CA"),
    ):
        with pytest.raises(ConfigError, match=words):
            NodeAuthority(cert, key)


def test_a_fixed_pair_is_handed_out_unless_it_is_more_than_a_client(authority: Authority) -> None:
    pair = authority.issue("client.global.nomad")
    fixed = fixed_pair(pair.cert, pair.key)
    assert (fixed.chain, fixed.key) == (pair.cert.read_text(), pair.key.read_text())
    assert fixed.expires_at == leaf(fixed).not_valid_after_utc.timestamp()
    server = authority.issue("server.global.nomad")
    for cert, key in ((server.cert, server.key), (authority.ca_file, authority.key_file)):
        with pytest.raises(ConfigError, match="more than a node may have"):
            fixed_pair(cert, key)
    with pytest.raises(ConfigError, match="not that of the certificate"):
        fixed_pair(pair.cert, server.key)


def test_no_error_quotes_a_key(authority: Authority) -> None:
    with pytest.raises(BridgeError) as caught:
        NodeAuthority(authority.key_file, authority.key_file)
    said = caught.value.message + caught.value.hint
    assert not [line for line in authority.key_file.read_text().splitlines() if line in said]


def test_the_digest_is_one_that_is_trusted(nodes: NodeAuthority) -> None:
    algorithm = leaf(signed(nodes, request_for(KEY))).signature_hash_algorithm
    assert isinstance(algorithm, hashes.SHA256)
