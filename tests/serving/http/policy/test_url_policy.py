"""Which URLs a prefix covers and which addresses are public; everything doubtful is neither."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import UsageError
from serving.http.policy.settings import Settings, from_environment
from serving.http.policy.url_policy import is_public, read_link, read_prefixes

PREFIX = "https://a.com/shop"


@pytest.mark.parametrize(
    "url",
    [
        "https://a.com/shop",
        "https://a.com/shop/",
        "https://a.com/shop/cat.jpg",
        "https://a.com/shop/x/y.jpg?size=3&token=%2F..%2F#top",
        "https://a.com:443/shop/1",
        "HTTPS://A.COM./shop/1",
        "https://a.com/%73hop/1",
        "https://a.com/shop/100%25.jpg",
        "https://a.com/shop/a%20b.jpg",
        "https://a.com/shop/..hidden/...",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_what_a_prefix_covers(url: str, slash: str) -> None:
    link = read_link(url)
    assert link is not None
    assert read_prefixes(PREFIX + slash)[0].covers(link)
    assert read_link(str(link)) == link


@pytest.mark.parametrize(
    "url",
    [
        "http://a.com/shop/1",
        "https://a.com.evil/shop/1",
        "https://b.a.com/shop/1",
        "https://a.com:8443/shop/1",
        "https://a.com/shopping/1",
        "https://a.com/",
        "https://a.com/SHOP/1",
        "https://a.com//shop/1",
    ],
)
def test_what_it_does_not_cover(url: str) -> None:
    link = read_link(url)
    assert link is not None
    assert not read_prefixes(PREFIX)[0].covers(link)


@pytest.mark.parametrize(
    "url",
    [
        "https://a.com/shop/../secret",
        "https://a.com/shop/..",
        "https://a.com/shop/./1",
        "https://a.com/shop/%2e%2e/secret",
        "https://a.com/shop/.%2E/secret",
        "https://a.com/shop/%252e%252e/secret",
        "https://a.com/shop/..%2fsecret",
        "https://a.com/shop/x%2f..%2f..%2fsecret",
        "https://a.com/shop/..%5csecret",
        "https://a.com/shop/..;/secret",
        "https://a.com/shop/..%3Bx/secret",
        "https://a.com/shop/%25252525252e",
        "https://a.com/shop\\..\\secret",
        "https://user@a.com/shop/1",
        "https://a.com@evil.com/shop/1",
        "https://evil.com:443@a.com/shop/1",
        "https://evil.com\\@a.com/shop/1",
        "https://a.com:0/shop/1",
        "https://a.com:99999/shop/1",
        "https://a.com:x/shop/1",
        "https://a.com%00.evil/shop/1",
        "https://a.com%2eevil/shop/1",
        "https://a..com/shop/1",
        "https://[::1/shop/1",
        "https://[fe80::1%25eth0]/shop/1",
        "https://[a.com]/shop/1",
        "https://a.com/shop/a b",
        "https://a.com/shop/\n1",
        "https://a.com/shop/\t1",
        "https://a.com/shop/ä",
        "https://а.com/shop/1",  # a Cyrillic letter
        "https:///shop/1",
        "https:a.com/shop",
        "//a.com/shop/1",
        "ftp://a.com/shop/1",
        "file:///shop/1",
        "",
        "https://a.com/shop/" + "x" * 2048,
    ],
)
def test_what_is_no_link(url: str) -> None:
    assert read_link(url) is None


@given(st.text(max_size=40))
def test_any_text_is_a_link_or_none(text: str) -> None:
    for url in (text, f"https://{text}", f"https://a.com/{text}"):
        link = read_link(url)
        if link is not None:
            assert read_link(str(link)) == link


def test_a_link_at_an_address() -> None:
    link = read_link("http://a.com:81/x?y")
    assert link is not None
    assert link.authority == "a.com:81"
    assert link.at(ipaddress.ip_address("1.2.3.4")) == "http://1.2.3.4:81/x?y"
    assert link.at(ipaddress.ip_address("2606::1")) == "http://[2606::1]:81/x?y"
    six = read_link("https://[2606::1]/")
    assert six is not None
    assert (six.host, six.authority) == ("2606::1", "[2606::1]")


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::808:808"],
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


PRIVATE = (
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "127.0.0.1", "127.9.9.9", "169.254.169.254"),
    *("172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "198.18.0.1"),
    *("192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_in_any_form(address: str) -> None:
    four = ipaddress.IPv4Address(address)
    assert not is_public(four)
    for prefix, shift in (("::ffff:0:0", 0), ("64:ff9b::", 0), ("2002::", 80), ("::", 0)):
        form = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(four) << shift)
        assert not is_public(form), form


@pytest.mark.parametrize(
    "address",
    [
        *("::", "::1", "::8.8.8.8", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1"),
        *("ff0e::1", "fec0::1", "2001:db8::1", "2001::1", "2001:10::1", "64:ff9b:1::808:808"),
        *("100::1", "4000::1", "5f00::1"),
    ],
)
def test_addresses_of_version_6_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def test_several_prefixes() -> None:
    prefixes = "https://a.com/x/, http://b.com:81"
    settings = from_environment({"LOOKALIKE_URL_PREFIXES": prefixes, "LOOKALIKE_URL_SECONDS": "2"})
    assert settings.url_seconds == 2
    first, second = read_prefixes(settings.url_prefixes)
    assert (first.host, first.path, second.host, second.port) == ("a.com", "/x/", "b.com", 81)
    assert read_prefixes(" ,") == ()


@pytest.mark.parametrize(
    "prefixes",
    ["a.com", "*", "https://*.a.com/", "https://a.com/?x=", "https://u:p@a.com", "file:///"],
)
def test_what_is_no_prefix(prefixes: str) -> None:
    with pytest.raises(UsageError, match=r"give the beginning of URLs"):
        Settings(url_prefixes=prefixes)


def test_a_request_has_more_time_than_an_image() -> None:
    with pytest.raises(UsageError, match="url_seconds is 10, request_seconds 5"):
        Settings(url_prefixes=PREFIX, request_seconds=5)
    Settings(request_seconds=5)
