"""Members are who their certificates say, and keys are for their owners alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509

from consensus.network import certificates
from consensus.network.certificates import (
    CertificateError,
    contexts,
    create_authority,
    issue_member,
    member_uri,
    peer_member,
)
from storage.clock import SystemEnvironment

ENVIRONMENT = SystemEnvironment()


def authority(path: Path, cluster: str = "c1") -> Path:
    create_authority(path, cluster=cluster, environment=ENVIRONMENT)
    return path


def test_a_member_certificate_names_cluster_member_and_hosts(tmp_path: Path) -> None:
    """The URI says who it is, the rest where it may be found."""
    ca = authority(tmp_path / "ca")
    hosts = ["node1.example", "10.0.0.1", "::1"]
    issue_member(
        ca, tmp_path / "m", cluster="c1", member="m1", hosts=hosts, environment=ENVIRONMENT
    )
    pem = (tmp_path / "m" / certificates.MEMBER_CERTIFICATE).read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["cronclave://c1/member/m1"]
    assert names.get_values_for_type(x509.DNSName) == ["node1.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    ca_pem = (ca / certificates.CA_CERTIFICATE).read_bytes()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem))


def test_private_keys_are_readable_for_their_owner_alone(tmp_path: Path) -> None:
    """Both the authority's and the members', and the authority's does not travel."""
    ca = authority(tmp_path / "ca")
    issue_member(ca, tmp_path / "m", cluster="c1", member="m1", environment=ENVIRONMENT)
    for key in (ca / certificates.CA_KEY, tmp_path / "m" / certificates.MEMBER_KEY):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not (tmp_path / "m" / certificates.CA_KEY).exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The message says what to do about it."""
    ca = authority(tmp_path / "ca")
    issue_member(ca, tmp_path / "m", cluster="c1", member="m1", environment=ENVIRONMENT)
    (tmp_path / "m" / certificates.MEMBER_KEY).chmod(mode)
    with pytest.raises(CertificateError, match="chmod 600"):
        contexts(tmp_path / "m")
    (ca / certificates.CA_KEY).chmod(mode)
    with pytest.raises(CertificateError, match="chmod 600"):
        issue_member(ca, tmp_path / "n", cluster="c1", member="m2", environment=ENVIRONMENT)


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    """A second authority or a second key under the same path is refused."""
    ca = authority(tmp_path / "ca")
    with pytest.raises(CertificateError, match="exists"):
        authority(tmp_path / "ca")
    issue_member(ca, tmp_path / "m", cluster="c1", member="m1", environment=ENVIRONMENT)
    with pytest.raises(CertificateError, match="exists"):
        issue_member(ca, tmp_path / "m", cluster="c1", member="m1", environment=ENVIRONMENT)


def test_an_authority_signs_for_its_own_cluster_alone(tmp_path: Path) -> None:
    """Two clusters cannot be mixed by a wrong path."""
    ca = authority(tmp_path / "ca", "other")
    with pytest.raises(CertificateError, match="not the authority of 'c1'"):
        issue_member(ca, tmp_path / "m", cluster="c1", member="m1", environment=ENVIRONMENT)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "a\n", "x" * 64, "ä", "../a", "a%2f"])
def test_a_name_that_could_be_mistaken_is_refused(tmp_path: Path, name: str) -> None:
    """Names stand in URIs and paths."""
    with pytest.raises(CertificateError, match="unfit"):
        authority(tmp_path / "ca", name)
    ca = authority(tmp_path / "real")
    with pytest.raises(CertificateError, match="unfit"):
        issue_member(ca, tmp_path / "m", cluster="c1", member=name, environment=ENVIRONMENT)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["cronclave://c2/member/m1"],
        ["cronclave://c1/member/m1", "cronclave://c1/member/m2"],
        ["https://c1/member/m1"],
    ],
)
def test_a_certificate_without_exactly_one_member_names_nobody(uris: list[str]) -> None:
    """None, several, and one of another cluster are refused."""
    certificate = {"subjectAltName": tuple(("URI", uri) for uri in uris)}
    with pytest.raises(CertificateError):
        peer_member(certificate, "c1")
    with pytest.raises(CertificateError):
        peer_member(None, "c1")


def test_the_member_is_the_one_in_the_uri() -> None:
    """Other names in the certificate do not matter."""
    names = (("DNS", "m2"), ("URI", member_uri("c1", "m1")))
    assert peer_member({"subjectAltName": names}, "c1") == "m1"


def test_missing_files_are_named(tmp_path: Path) -> None:
    """An empty directory says what is expected in it."""
    with pytest.raises(CertificateError, match=certificates.MEMBER_KEY):
        contexts(tmp_path)
    with pytest.raises(CertificateError, match=certificates.CA_CERTIFICATE):
        issue_member(tmp_path, tmp_path / "m", cluster="c1", member="m1", environment=ENVIRONMENT)
