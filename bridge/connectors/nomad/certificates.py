"""Certificates for nodes: signed by a CA of the operator's, or one fixed pair for all.

Whoever holds a certificate for ``server.<region>.nomad`` can act as a Nomad server.
So nothing of a signing request is taken over but its public key.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    PublicKeyTypes,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from bridge.errors import ConfigError, ConnectorUnavailable, InvalidRequest

NodeKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_LONGEST_REQUEST: Final = 16_384  # bytes; an RSA key of 8192 bits needs 3,000
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_RSA_BITS: Final = range(2048, 8193)  # above, checking costs us more than it gives
_CLOCKS_DIFFER: Final = dt.timedelta(minutes=5)
_KEY_HINT: Final = "Make an ECDSA key (P-256 or P-384) or an RSA key of 2048 bits or more."
_REQUEST_HINT: Final = "Send one PKCS #10 request in PEM, as `openssl req -new` writes it."


class Identity(Struct, frozen=True, kw_only=True):
    """A node's certificate chain, its key where it is not the node's own secret, both
    PEM, and when the certificate expires (Unix seconds).
    """

    chain: str
    key: str | None
    expires_at: float


class Authority:
    """The CA whose key signs nodes. Raises ConfigError when the files cannot be used."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert = _certificate(cert_file, "nomad.ca_cert_file")
        self._key = _matching_key(key_file, "nomad.ca_key_file", self._cert)
        if not _is_authority(self._cert):
            raise ConfigError(
                f"nomad.ca_cert_file: {cert_file} is not the certificate of a CA",
                "Give the CA that signed the Nomad servers' certificates, or one below it.",
            )

    @property
    def expires_at(self) -> float:
        """When the CA's own certificate expires, Unix seconds."""
        return self._cert.not_valid_after_utc.timestamp()

    def sign(self, request: str, *, region: str, lifetime_s: float, now: float) -> Identity:
        """A certificate of a Nomad client in ``region`` for the public key in ``request``,
        which lasts ``lifetime_s`` seconds or as long as the CA.

        Raises InvalidRequest, ConnectorUnavailable (the CA has expired).
        """
        if self.expires_at <= now:
            raise ConnectorUnavailable(
                "The CA that signs nodes has expired", "Renew the files of nomad.ca_cert_file."
            )
        key = _public_key(request)
        start = dt.datetime.fromtimestamp(now, dt.UTC)
        end = min(start + dt.timedelta(seconds=lifetime_s), self._cert.not_valid_after_utc)
        issued = (
            _client(key, region)
            .issuer_name(self._cert.subject)
            .not_valid_before(max(start - _CLOCKS_DIFFER, self._cert.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(_issuer_key(self._cert), critical=False)
            .sign(self._key, _digest(self._key))
        )
        chain = [issued] if self._cert.issuer == self._cert.subject else [issued, self._cert]
        expires_at = issued.not_valid_after_utc.timestamp()
        return Identity(chain=_pem(chain), key=None, expires_at=expires_at)


def fixed_pair(cert_file: Path, key_file: Path) -> Identity:
    """The one certificate and key that every node gets where the bridge has no CA key.

    Raises ConfigError, also for a certificate that could act as a Nomad server or as a CA.
    """
    chain = _read(cert_file, "nomad.node_cert_file")
    cert = _certificate(cert_file, "nomad.node_cert_file")
    _matching_key(key_file, "nomad.node_key_file", cert)
    if _is_authority(cert) or any(name.startswith("server.") for name in _names(cert)):
        raise ConfigError(
            f"nomad.node_cert_file: {cert_file} is more than a node may have",
            "Make a certificate for client.<region>.nomad, with no name of a server.",
        )
    return Identity(
        chain=chain,
        key=_read(key_file, "nomad.node_key_file"),
        expires_at=cert.not_valid_after_utc.timestamp(),
    )


def trusted(file: Path, setting: str) -> str:
    """The CA certificates of a file, PEM. Raises ConfigError."""
    _certificate(file, setting)
    return _read(file, setting)


def expiry(file: Path, setting: str) -> float:
    """When the first certificate of a file expires, Unix seconds. Raises ConfigError."""
    return _certificate(file, setting).not_valid_after_utc.timestamp()


def is_trusted(ca_cert_file: Path, ca_file: Path) -> bool:
    """Whether a CA is one of those in ``ca_file``, or signed by one. Raises ConfigError."""
    cert = _certificate(ca_cert_file, "nomad.ca_cert_file")
    bundle = x509.load_pem_x509_certificates(trusted(ca_file, "nomad.ca_file").encode())
    return cert in bundle or any(_has_signed(one, cert) for one in bundle)


def _has_signed(issuer: x509.Certificate, cert: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public_key(request: str) -> NodeKey:
    """The key of a signing request, which its sender has shown to hold."""
    if len(request) > _LONGEST_REQUEST:
        raise InvalidRequest("signing_request: it is too long", _REQUEST_HINT)
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        key = parsed.public_key()
        proven = parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidRequest("signing_request: it cannot be read", _REQUEST_HINT) from error
    if not proven:
        raise InvalidRequest(
            "signing_request: its signature is not by the key that it names", _REQUEST_HINT
        )
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return key
    # Nomad itself refuses Ed25519: "RSA and ECDSA only are supported".
    raise InvalidRequest("signing_request: a key of this kind is not taken", _KEY_HINT)


def _client(key: NodeKey, region: str) -> x509.CertificateBuilder:
    """Everything of a node's certificate that does not depend on the CA. The node's name
    is nowhere in it: it could be that of a server.
    """
    role = f"client.{region}.nomad"
    names = [
        x509.DNSName(role),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
    ]
    # Clients show it to servers; on 127.0.0.1 the node's own agent serves with it.
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(encipherment=isinstance(key, rsa.RSAPublicKey)), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, encipherment: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key(cert: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(cert.public_key())  # type: ignore[arg-type] # a CA's key signs
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _digest(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | None:
    # Edwards keys bring their own.
    own = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return None if own else hashes.SHA256()


def _is_authority(cert: x509.Certificate) -> bool:
    try:
        return cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names(cert: x509.Certificate) -> list[str]:
    common = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = [str(attribute.value) for attribute in common]
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return names
    return names + found.value.get_values_for_type(x509.DNSName)


def _certificate(file: Path, setting: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(file, setting).encode())
    except ValueError as error:
        raise ConfigError(
            f"{setting}: {file} holds no certificate: {error}", "Give a certificate in PEM."
        ) from error


def _matching_key(
    file: Path, setting: str, cert: x509.Certificate
) -> CertificateIssuerPrivateKeyTypes:
    try:
        key = serialization.load_pem_private_key(_read(file, setting).encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Not what the library says: it could quote the key.
        raise ConfigError(
            f"{setting}: {file} holds no private key that can be read",
            "Give the key in PEM without a password, readable by the bridge's user only.",
        ) from error
    if _spki(key.public_key()) != _spki(cert.public_key()):
        raise ConfigError(
            f"{setting}: the key in {file} is not that of the certificate",
            "Give the key that belongs to it.",
        )
    return key  # type: ignore[return-value] # a certificate's key can sign


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _read(file: Path, setting: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: cannot read {file}: {error}", "Correct the path.") from error


def _pem(certs: Sequence[x509.Certificate]) -> str:
    return "".join(cert.public_bytes(serialization.Encoding.PEM).decode() for cert in certs)
