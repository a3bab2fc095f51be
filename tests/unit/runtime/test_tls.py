"""Test the files of TLS for gRPC: their flags, and what a start refuses."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.errors import SettingError
from runtime import flags, tls
from runtime.__main__ import parse
from runtime.tls import GrpcTls
from tests.certificates import DAY, Authority

NAMES = ("--grpc-certificate", "--grpc-key", "--grpc-client-ca")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_no_tls_by_default() -> None:
    assert tls.read(None, None, None) is None
    assert tls.read("", "", "") is None


def test_flags(authority: Authority) -> None:
    pair = authority.issue("server", "localhost")
    files = (f"--grpc-server-cert={pair.certificate}", f"--grpc-server-key={pair.key}")
    found = tls.read(str(pair.certificate), str(pair.key), None)
    assert found is not None
    assert found.flags() == ("--grpc-use-ssl=true", *files)
    mutual = tls.read(str(pair.certificate), str(pair.key), str(authority.file))
    assert mutual is not None
    assert mutual.flags() == ("--grpc-use-ssl-mutual=true", *files, f"--grpc-root-cert={authority.file}")


def test_options_and_variables(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = authority.issue("server", "localhost")
    expected = GrpcTls(certificate=pair.certificate, key=pair.key, client_ca=authority.file)
    files = map(str, (pair.certificate, pair.key, authority.file))
    options = [f"{name}={path}" for name, path in zip(NAMES, files, strict=True)]
    assert parse(options).grpc_tls == expected
    for option in options:
        name, _, path = option.partition("=")
        monkeypatch.setenv(f"VOXWRIGHT_{name.removeprefix('--').replace('-', '_').upper()}", path)
    assert parse([]).grpc_tls == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((True, False, False), "--grpc-certificate: TLS also needs --grpc-key."),
        ((False, True, False), "--grpc-key: TLS also needs --grpc-certificate."),
        ((False, False, True), "--grpc-client-ca: TLS also needs --grpc-certificate."),
    ],
)
def test_rejects_half_of_the_files(given: tuple[bool, bool, bool], sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        tls.read(*("file" if each else None for each in given))
    remedy = "Name the certificate with --grpc-certificate and its key with --grpc-key."
    assert str(refusal.value) == f"{sentence} {remedy}"


def test_rejects_files_that_no_client_accepts(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue("server", "localhost"), authority.issue("other", "localhost")
    files = GrpcTls(certificate=pair.certificate, key=other.key)
    wrong_key = f"--grpc-key {other.key}: it is not the private key of --grpc-certificate {pair.certificate}."
    absent = GrpcTls(certificate=tmp_path / "absent", key=pair.key)
    ca = GrpcTls(certificate=pair.certificate, key=pair.key, client_ca=pair.key)
    now = datetime.now(UTC)
    good = GrpcTls(certificate=pair.certificate, key=pair.key)
    tls.check(good, now)
    for chosen, at, sentence in (
        (files, now, wrong_key),
        (absent, now, f"--grpc-certificate {tmp_path / 'absent'}: it cannot be read (No such file or directory)."),
        (ca, now, f"--grpc-client-ca {pair.key}: it holds no certificate."),
        (good, now + 31 * DAY, f"--grpc-certificate {pair.certificate}: it expired on {now + 30 * DAY:%Y-%m-%d}."),
        (good, now - 2 * DAY, f"--grpc-certificate {pair.certificate}: it is not valid before "),
    ):
        with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
            tls.check(chosen, at)


@pytest.mark.parametrize(
    "flag", ["--grpc-use-ssl=true", "--grpc-server-cert=x", "--grpc-root-cert", "--grpc-use-ssl-m"]
)
def test_rejects_flags_of_tritonserver(flag: str) -> None:
    with pytest.raises(SettingError, match="Use --grpc-certificate, --grpc-key and --grpc-client-ca, before the --"):
        flags.check([flag])
