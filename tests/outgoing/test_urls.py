"""How a URL is read."""

from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from errors import AddressRefused
from outgoing.urls import Target, parse


def read(url: str) -> Target:
    return parse(url, allow_http=True, ports={443, 80, 8443})


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM:443/Hook", "https://example.com/Hook"),
        ("http://example.com:80/", "http://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://example.com:08443/a?b=c&d=%20#part", "https://example.com:8443/a?b=c&d=%20"),
        ("https://example.com./", "https://example.com/"),
        ("https://example.com?a", "https://example.com/?a"),
        ("https://example.com#@127.0.0.1/", "https://example.com/"),
        ("https://my_service/", "https://my_service/"),
        ("https://bücher.example/süß", "https://xn--bcher-kva.example/s%C3%BC%C3%9F"),
        ("https://例え.jp/", "https://xn--r8jz45g.jp/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:0:0::1111]:8443/", "https://[2606:4700::1111]:8443/"),
        ("https://example.com/a/../b;v=1,2/@x:y", "https://example.com/a/../b;v=1,2/@x:y"),
    ],
)
def test_a_url_is_brought_into_one_form(url: str, canonical: str) -> None:
    assert str(read(url)) == canonical
    assert str(read(canonical)) == canonical


REFUSED = [
    # not of the form at all
    "",
    "/",
    "//example.com/",
    "example.com",
    "https:",
    "https:example.com",
    "https:/example.com",
    "https:///example.com",
    "https://",
    "https://:443/",
    " https://example.com/",
    "https://example.com/ ",
    "https://example.com/a b",
    f"https://example.com/{'a' * 2048}",
    # other schemes
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://example.com/",
    "gopher://example.com:443/_",
    "dict://example.com/",
    "data:text/plain,x",
    "javascript://example.com/%0aalert(1)",
    "jar:https://example.com!/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "ws://example.com/",
    "wss://example.com/",
    "httpsx://example.com/",
    # somebody's name before the host
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com:443@127.0.0.1/",
    "https://127.0.0.1%40example.com/",
    # two readers, two hosts
    "https://example.com\\@127.0.0.1/",
    "https://example.com\\.evil.example/",
    "https:\\\\example.com\\",
    "https://example.com/\\evil",
    "https://exam%70le.com/",
    "https://example.com%00.evil.example/",
    "https://example.com%2f@evil.example/",
    "https://example.com,evil.example/",
    "https://example.com;evil.example/",
    "https://example.com evil.example/",
    "https://exam\tple.com/",
    "https://exam\u00adple.com/",
    "https://example.com\u2028.evil.example/",
    # lines of one's own
    "https://example.com/\r\nX-Evil: 1",
    "https://example.com/\n",
    "https://example.com\r\n/",
    "https://example.com/?a\rb",
    "https://example.com/#\r\nX-Evil: 1",
    "https://example.com/\x00",
    "https://example.com/\x7f",
    "https://example.com/\ud800",
    # ports
    "https://example.com:22/",
    "https://example.com:6379/",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:99999443/",
    "https://example.com:-443/",
    "https://example.com:+443/",
    "https://example.com:4_43/",
    "https://example.com:٤٤٣/",
    "https://example.com:/",
    "https://example.com:443:443/",
    "https://example.com:https/",
    # numbers that some take for an IPv4 address
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0X7F.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.0.0.1.1/",
    "https://127.0.0.01/",
    "https://256.0.0.1/",
    "https://0/",
    "https://0x/",
    "https://example.1/",
    "https://example.0xa/",
    "https://127.0.0.0x1/",
    "https://4294967297/",
    "https://１２７.0.0.1/",
    "https://127。0。1/",
    "https://①②⑦.0.0.1/",
    "https://١٢٧.0.0.1/",
    # names that are none
    "https://-example.com/",
    "https://example-.com/",
    "https://example..com/",
    "https://.example.com/",
    "https://example.com../",
    "https://./",
    f"https://{'a' * 64}.com/",
    f"https://{'a.' * 127}com/",
    "https://*.example.com/",
    "https://exa$mple.com/",
    "https://xn--bücher.example/",
    "https://ｅxample.com/",
    "https://ℰxample.com/",
    "https://①.example/",
    # brackets
    "https://[::1/",
    "https://::1/",
    "https://[::1]x/",
    "https://[]/",
    "https://[example.com]/",
    "https://[127.0.0.1]/",
    "https://[fe80::1%eth0]/",
    "https://[fe80::1%25eth0]/",
    "https://[::1%]/",
    "https://[v1.x]/",
    "https://[1:2:3:4:5:6:7:8:9]/",
    "https://[::ffff:0x7f.0.0.1]/",
    "https://[[::1]]/",
]


@pytest.mark.security("address", "a URL that can be read in two ways")
@pytest.mark.parametrize("url", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        read(url)


#: What readers of URLs are known to differ about, and what else it takes to write one.
PIECES = [
    "https://", "http://", "//", "/", ":", "@", "#", "?", "\\", "%", "%00", "%2f", "[", "]", ".",
    "..", ",", ";", "*", "-", "_", "&", "=", "\t", "\n", " ", "\0", "a", "Z", "example.com",
    "127.0.0.1", "::1", "[::1]", "0x7f", "0177", "1", "443", "8443", "22", "xn--", "ß", "。", "①",
    "\u00ad", "\u202e", "é",
]  # fmt: skip
STARTS = ["https://", "HTTP://", "https://example.com", "https://a.example:443/", "http://[::1]"]


@settings(max_examples=1000)
@example("https://", ["example.com"])
@example("https://", ["[::1]", ":", "8443", "/", "a", "?", "#"])
@given(st.sampled_from(STARTS), st.lists(st.sampled_from(PIECES), max_size=6))
def test_whoever_reads_the_one_form_finds_the_same_host(start: str, rest: list[str]) -> None:
    try:
        target = read(start + "".join(rest))
    except AddressRefused:
        return
    once, twice = urlsplit(str(target)), httpx2.URL(str(target))

    found = (target.scheme, target.host, target.port)
    port = {"https": 443, "http": 80}[target.scheme]
    assert (once.scheme, once.hostname, once.port or port) == found
    assert (twice.scheme, twice.raw_host.decode(), twice.port or port) == found
    assert (once.username, once.password, twice.userinfo) == (None, None, b"")
    assert str(read(str(target))) == str(target)


def test_plain_http_is_refused_unless_it_is_asked_for() -> None:
    with pytest.raises(AddressRefused, match=r"must begin with https://\.$"):
        parse("http://example.com:443/", allow_http=False, ports={443})


def test_a_refusal_names_the_ports_that_there_are() -> None:
    with pytest.raises(AddressRefused, match=r"port must be 80 or 443 or 8443\.$"):
        read("https://example.com:8080/")


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://example.com/", "example.com"),
        ("https://example.com:8443/", "example.com:8443"),
        ("http://example.com:443/", "example.com:443"),
        ("https://[2606:4700::1]:8443/", "[2606:4700::1]:8443"),
    ],
)
def test_the_host_header_has_the_port_where_it_is_not_the_schemes(url: str, authority: str) -> None:
    assert read(url).authority == authority
