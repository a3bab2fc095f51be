"""Which URLs the service may call."""

import pytest

from service.addresses import Destination, ForbiddenUrlError, check, place

ADDRESSES = {
    "files.example.com": ["93.184.216.34"],
    "evil.example.com": ["93.184.216.34", "169.254.169.254"],
    "minio.internal": ["10.0.0.7"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "six.example.com": ["2606:2800:220:1:248:1893:25c8:1946"],
}
INSIDE = "is an address inside the network; --fetch-host must name it as a whole"
ALLOWED = ("*.example.com", "minio.internal", "127.0.0.1")


def resolve(host: str, port: int) -> list[str]:
    return ADDRESSES.get(host, [host])


@pytest.mark.parametrize(
    ("url", "host", "port", "address"),
    [
        ("https://files.example.com/a?b=c", "files.example.com", 443, "93.184.216.34"),
        ("http://FILES.example.com.:8080/a", "files.example.com", 8080, "93.184.216.34"),
        ("https://six.example.com/", "six.example.com", 443, "2606:2800:220:1:248:1893:25c8:1946"),
        ("http://minio.internal:9000/a", "minio.internal", 9000, "10.0.0.7"),
        ("http://127.0.0.1/", "127.0.0.1", 80, "127.0.0.1"),
    ],
)
def test_listed_hosts_may_be_called(url: str, host: str, port: int, address: str) -> None:
    scheme = url.partition(":")[0]
    expected = Destination(scheme=scheme, host=host, port=port, address=address)
    assert check(url, ALLOWED, "--fetch-host", resolve) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://other.org/", "this service may not call other.org; its operator lists hosts with --fetch-host"),
        ("https://example.com/", "this service may not call example.com; its operator lists hosts with --fetch-host"),
        ("https://example.com.other.org/", "this service may not call example.com.other.org; its operator lists hosts "
         "with --fetch-host"),
        ("https://evil.example.com/", f"evil.example.com {INSIDE}"),
        ("https://mapped.example.com/", f"mapped.example.com {INSIDE}"),
        ("http://[::1]/", "this service may not call ::1; its operator lists hosts with --fetch-host"),
        ("http://2130706433/", "this service may not call 2130706433; its operator lists hosts with --fetch-host"),
        ("http://a:b@files.example.com/", "it contains a user or a password; send them with auth_headers"),
        ("file:///etc/passwd", "it is not a URL that begins with http:// or https://"),
        ("gopher://files.example.com/", "it is not a URL that begins with http:// or https://"),
        ("http://", "it is not a URL that begins with http:// or https://"),
        ("http://[::1", "it is not a URL"),
        ("http://files.example.com:99999/", "it is not a URL"),
        ("", "it is not a URL that begins with http:// or https://"),
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ForbiddenUrlError) as raised:
        check(url, ALLOWED, "--fetch-host", resolve)
    assert str(raised.value) == reason


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",  # noqa: S104
     "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::", "::ffff:224.0.0.1", "2002:e000:1::",
     "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::224.0.0.1",
     "64:ff9b:1::127.0.0.1", "64:ff9b:1:7f00:0:100::", "::127.0.0.1", "::10.0.0.1", "::ffff:0:127.0.0.1",
     "fec0::1", "feff::1", "ff0e::1", "100::1", "2001:db8::1", "2001:0:4136:e378:8000:63bf:80ff:fffe"],
)  # fmt: skip
def test_pattern_reaches_no_internal_address(address: str) -> None:
    with pytest.raises(ForbiddenUrlError, match="inside the network"):
        check("https://x.example.com/", ALLOWED, "--fetch-host", lambda *_: [address])


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::93.184.216.34", "::ffff:93.184.216.34", "2002:5db8:d822::1"],
)
def test_pattern_reaches_public_addresses(address: str) -> None:
    """Also through a gateway from IPv6 to IPv4."""
    found = check("https://x.example.com/", ALLOWED, "--fetch-host", lambda *_: [address])
    assert found.address == address


def test_everything_public_may_be_listed() -> None:
    assert check("https://other.org/", ("*",), "--notify-host", lambda *_: ["93.184.216.34"]).host == "other.org"
    with pytest.raises(ForbiddenUrlError, match="inside the network"):
        check("https://other.org/", ("*",), "--notify-host", lambda *_: ["10.0.0.1"])


def test_host_without_an_address() -> None:
    with pytest.raises(ForbiddenUrlError, match="has no address"):
        check("https://none.invalid/", ("none.invalid",), "--fetch-host")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://Files.example.com./a?b", "files.example.com:443"),
        ("http://files.example.com", "files.example.com:80"),
        ("http://files.example.com:8080/", "files.example.com:8080"),
        ("http://[::1", ""),
        ("http://a:99999/", ""),
    ],
)
def test_place_of_a_url(url: str, found: str) -> None:
    assert place(url) == found
