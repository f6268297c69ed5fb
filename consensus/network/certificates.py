"""The cluster's own certificate authority: who is a member is decided by its signature.

A member proves its name with a certificate that carries the URI
`cronclave://<cluster>/member/<name>`. Host names do not matter for it, so members may move;
they are in the certificate as well, for the API's sake. Keys are ECDSA P-256. Private keys
are written with mode 0600 and refused when anybody else may read them.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from storage.clock import Environment

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
MEMBER_CERTIFICATE, MEMBER_KEY = "member.pem", "member.key"

CA_DAYS = 3650
MEMBER_DAYS = 825
# Clocks of two machines differ; a certificate is valid a little before it was made.
BACKDATED = timedelta(minutes=5)

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class CertificateError(Exception):
    """A certificate or key is missing, unsafe or for somebody else; the text says which."""


def member_uri(cluster: str, member: str) -> str:
    """Return the name by which a certificate identifies a member."""
    return f"cronclave://{cluster}/member/{member}"


def create_authority(directory: Path, *, cluster: str, environment: Environment) -> None:
    """Make `ca.pem` and `ca.key` for a cluster.

    Raises:
        CertificateError: the cluster's name cannot be in a URI, or the files exist.
    """
    _check_name("cluster", cluster)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Cronclave"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} authority"),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(subject, subject, key.public_key(), CA_DAYS, environment)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory, CA_CERTIFICATE, CA_KEY, certificate, key)


def issue_member(
    authority: Path,
    directory: Path,
    *,
    cluster: str,
    member: str,
    hosts: Sequence[str] = (),
    environment: Environment,
) -> None:
    """Make `member.pem` and `member.key`, and copy `ca.pem` beside them.

    `authority` holds the CA's files. `hosts` are the names and addresses under which the
    member is reached. The CA's key is not copied: no member needs it.

    Raises:
        CertificateError: a name is unfit, the CA is missing or of another cluster, or the
            files exist.
    """
    _check_name("member", member)
    ca = _load_certificate(authority / CA_CERTIFICATE)
    ca_key = _load_key(authority / CA_KEY)
    common_name = ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    if common_name != f"{cluster} authority":
        raise CertificateError(
            f"{authority / CA_CERTIFICATE} is {common_name!r}, not the authority of {cluster!r}."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier(member_uri(cluster, member)), *map(_host, hosts)]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member)])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), MEMBER_DAYS, environment)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(directory, MEMBER_CERTIFICATE, MEMBER_KEY, certificate, key)
    if directory != authority:
        (directory / CA_CERTIFICATE).write_bytes((authority / CA_CERTIFICATE).read_bytes())


def authority_sha256(certificate: bytes) -> str:
    """Return by which number an authority is known, of its certificate in PEM.

    Raises:
        CertificateError: it is none.
    """
    return _parse_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def check_issued(authority: bytes, certificate: bytes, *, cluster: str, member: str) -> None:
    """Check that an authority has signed a certificate for this member and no other.

    Raises:
        CertificateError: it has not.
    """
    issued = _parse_certificate(certificate)
    try:
        issued.verify_directly_issued_by(_parse_certificate(authority))
        names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise CertificateError("The certificate is not one of this authority.") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [member_uri(cluster, member)]:
        raise CertificateError(f"The certificate names {uris}, not {member!r} of {cluster!r}.")


def _parse_certificate(content: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise CertificateError(f"This is no certificate: {error}") from error


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts from the files that `issue_member` puts into a directory."""
    return load_contexts(
        directory / CA_CERTIFICATE, directory / MEMBER_CERTIFICATE, directory / MEMBER_KEY
    )


def load_contexts(ca: Path, certificate: Path, key: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts for accepting and for dialing members, TLS 1.3, both sides proven.

    Host names are not checked, for members are known by their URI: see `peer_member`.

    Raises:
        CertificateError: a file is missing, unreadable or readable for others.
    """
    _check_private(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(ca)
        except OSError as error:
            raise CertificateError(
                f"The certificate {certificate} with the key {key} and the authority {ca} cannot "
                f"be loaded: {error}."
            ) from error
    return server, client


def peer_member(certificate: object, cluster: str) -> str:
    """Return the member that a verified certificate, as `getpeercert` gives it, names.

    Raises:
        CertificateError: it names none, several, or one of another cluster.
    """
    names = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
    uris = [value for kind, value in names if kind == "URI"]
    prefix = member_uri(cluster, "")
    if len(uris) != 1 or not uris[0].startswith(prefix):
        raise CertificateError(f"The certificate names {uris}, not one member of {cluster!r}.")
    return str(uris[0].removeprefix(prefix))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    environment: Environment,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(environment.wall_ms() // 1000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CertificateError(
            f"The {kind} name {name!r} is unfit: letters, digits, dots, dashes and underscores, "
            "at most 63, beginning and ending with a letter or digit."
        )


def _write(
    directory: Path,
    certificate_name: str,
    key_name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        descriptor = os.open(directory / key_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CertificateError(f"{directory / key_name} exists and is not replaced.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    public = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / certificate_name).write_bytes(public)


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CertificateError(f"The key {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise CertificateError(
            f"The key {path} can be read by others (mode {mode & 0o777:o}); run chmod 600 on it, "
            "and make a new one if somebody may have copied it."
        )


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"The certificate {path} cannot be read: {error}") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    _check_private(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise CertificateError(f"The key {path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"The key {path} is not an ECDSA key.")
    return key
