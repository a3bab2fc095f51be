"""The options of TLS and headers, and what is refused before anything is sent."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from contract import access
from contract.access import Access
from contract.errors import SettingError
from tests.certificates import Authority


@click.command()
@access.options
def command(access: Access) -> None:
    print(access.tls, access.ca, access.certificate, dict(access.headers))


Pair = tuple[Path | None, Path | None]


def read(*header: str, tls: bool = False, ca: Path | None = None, pair: Pair = (None, None)) -> Access:
    return access.read(tls=tls, ca=ca, client_certificate=pair[0], client_key=pair[1], header=header)


def test_options_and_variables(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("client")
    variables = {
        "VOXWRIGHT_CA": str(authority.file),
        "VOXWRIGHT_CLIENT_CERTIFICATE": str(pair.certificate),
        "VOXWRIGHT_CLIENT_KEY": str(pair.key),
        "VOXWRIGHT_HEADERS": "Authorization: Bearer a b\nx-tenant:7\n",
    }
    expected = f"True {authority.file} {pair.certificate} {{'authorization': 'Bearer a b', 'x-tenant': '7'}}\n"
    assert CliRunner().invoke(command, env=variables).output == expected
    arguments = ["--ca", str(authority.file), "--client-certificate", str(pair.certificate), "--client-key"]
    headers = ["--header", "Authorization: Bearer a b", "--header", "x-tenant:7"]
    assert CliRunner().invoke(command, [*arguments, str(pair.key), *headers]).output == expected
    found = access.from_environment(variables)
    assert (found.tls, found.ca, dict(found.headers)) == (
        True,
        authority.file,
        {"authorization": "Bearer a b", "x-tenant": "7"},
    )


def test_plain_by_default() -> None:
    assert access.from_environment({}) == access.PLAIN == read()
    assert CliRunner().invoke(command).output == "False None None {}\n"
    assert access.from_environment({"VOXWRIGHT_TLS": "true"}) == Access(tls=True)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(read("authorization: secret"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no colon, a secret", "--header: it is not of the form NAME: VALUE."),
        ("a name: value", "--header 'a name': this name cannot be used for a header of gRPC and HTTP."),
        ("grpc-timeout: 1", "--header 'grpc-timeout': this name cannot be used for a header of gRPC and HTTP."),
        ("key-bin: 1", "--header 'key-bin': this name cannot be used for a header of gRPC and HTTP."),
        (": value", "--header '': this name cannot be used for a header of gRPC and HTTP."),
        ("token: gr\u00fcn", "--header token: its value has characters other than printable ASCII."),
        ("token: a\nb", "--header token: its value has characters other than printable ASCII."),
    ],
)
def test_rejects_header(text: str, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        read(text)
    assert str(refusal.value) == f"{sentence} Use for example --header 'authorization: Bearer TOKEN'."


def test_rejects_files_of_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    client, other = authority.issue("client"), authority.issue("other")
    locked = authority.issue("locked", password=b"secret")
    absent = tmp_path / "absent.pem"
    cases: list[tuple[Path | None, Pair, str]] = [
        (absent, (None, None), f"--ca {absent}: it cannot be read (No such file or directory). Name a file"),
        (tmp_path, (None, None), f"--ca {tmp_path}: it cannot be read (Is a directory). Name a file"),
        (client.key, (None, None), f"--ca {client.key}: it holds no certificate. Name a file in PEM format."),
        (None, (client.certificate, None), f"--client-certificate {client.certificate}: --client-key is missing."),
        (None, (None, client.key), f"--client-key {client.key}: --client-certificate is missing. Name both"),
        (None, (client.key, client.key), f"--client-certificate {client.key}: it holds no certificate."),
        (None, (client.certificate,) * 2, f"--client-key {client.certificate}: it holds no private key."),
        (None, (client.certificate, other.key),
         f"--client-key {other.key}: it is not the private key of --client-certificate {client.certificate}. Name"),
        (None, (locked.certificate, locked.key), f"--client-key {locked.key}: it needs a passphrase. Decrypt"),
    ]  # fmt: skip
    for ca, chosen, sentence in cases:
        with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
            read(ca=ca, pair=chosen)
