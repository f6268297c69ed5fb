"""The cluster's own small certificate authority.

Members prove to each other who they are with certificates of this one authority and
nothing else: no system store, no host names. A member's name stands in its certificate as
`cronclave://CLUSTER/member/NAME`, so a certificate of another cluster, or one that was
made for a client, opens nothing. Keys are readable by their owner alone; one that is not
is refused, because then it is not known who has it.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
MEMBER_CERTIFICATE, MEMBER_KEY = "member.pem", "member.key"

# Renewal is an operator's act for now, so certificates outlive the memory of it by little.
CA_DAYS = 3_650
MEMBER_DAYS = 825
# Clocks of freshly made machines may be behind the one that signs.
BACKDATED = timedelta(hours=1)


class CertificateRefused(Exception):
    """A file is missing, belongs to somebody else, or can be read by too many."""


def member_uri(cluster: str, member: str) -> str:
    """Return the name of a member as it stands in its certificate."""
    return f"cronclave://{quote(cluster, safe='')}/member/{quote(member, safe='')}"


def create_authority(directory: Path, cluster: str, *, now_ms: int) -> None:
    """Make the authority of a new cluster: `ca.pem` and `ca.key` in a directory.

    Raises:
        CertificateRefused: there is one already; a second would split the cluster.
    """
    if (directory / CA_CERTIFICATE).exists() or (directory / CA_KEY).exists():
        raise CertificateRefused(f"{directory} holds a certificate authority already.")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Cronclave {cluster}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), now_ms, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(directory / CA_KEY, key)
    _write(directory / CA_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def issue_member(
    authority: Path,
    directory: Path,
    cluster: str,
    member: str,
    hosts: Iterable[str],
    *,
    now_ms: int,
) -> None:
    """Make a member's certificate and key, and put the authority's certificate beside them."""
    ca_key = serialization.load_pem_private_key(_read_key(authority / CA_KEY), password=None)
    ca = x509.load_pem_x509_certificate(_read(authority / CA_CERTIFICATE))
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member[:64])])
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(member_uri(cluster, member)),
        *(_host_name(host) for host in sorted(set(hosts))),
    ]
    purposes = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    certificate = (
        _builder(name, ca.subject, key.public_key(), now_ms, MEMBER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(purposes, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write_key(directory / MEMBER_KEY, key)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    _write(directory / MEMBER_CERTIFICATE, pem, 0o644)
    if directory != authority:
        _write(directory / CA_CERTIFICATE, _read(authority / CA_CERTIFICATE), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now_ms: int, days: int
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(path, pem, 0o600)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateRefused(f"{path} cannot be read: {error.strerror}.") from error


def _read_key(path: Path) -> bytes:
    content = _read(path)
    if path.stat().st_mode & 0o077:
        raise CertificateRefused(f"{path} can be read by others; run: chmod 600 {path}")
    return content


def load_context(ca: Path, certificate: Path, key: Path, *, server: bool) -> ssl.SSLContext:
    """Return the TLS settings for one side of a connection between members.

    TLS 1.3, a certificate of `ca` demanded from both sides. Who it is for is checked by
    the caller with `peer_member`; host names mean nothing here.

    Raises:
        CertificateRefused: a file is missing, damaged, or the key is readable by others.
    """
    _read_key(key)
    protocol = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=str(ca))
        context.load_cert_chain(str(certificate), str(key))
    except (ssl.SSLError, OSError) as error:
        raise CertificateRefused(
            f"The certificate {certificate} with {key} and {ca} cannot be used: {error}."
        ) from error
    return context


def peer_member(certificate: dict[str, object] | None, cluster: str) -> str | None:
    """Return the member that a peer's certificate names, None if it is not of this cluster."""
    prefix = member_uri(cluster, "")
    names = (certificate or {}).get("subjectAltName", ())
    assert isinstance(names, tuple)
    members = [
        unquote(value[len(prefix) :])
        for kind, value in names
        if kind == "URI" and value.startswith(prefix)
    ]
    return members[0] if len(members) == 1 else None
