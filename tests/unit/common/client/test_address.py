"""URLs to addresses."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.address import Address, Target, parse_target
from common.client.errors import AddressError, ClientError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("stomp://localhost", Address("tcp", "localhost", 61613)),
        ("stomp://localhost/", Address("tcp", "localhost", 61613)),
        ("STOMP://h:1", Address("tcp", "h", 1)),
        ("stomp://h:65535", Address("tcp", "h", 65535)),
        ("stomps://h", Address("tls", "h", 61614)),
        ("stomp+ssl://h:7", Address("tls", "h", 7)),
        ("stomp://[::1]", Address("tcp", "::1", 61613)),
        ("stomps://[fe80::1%25eth0]:99", Address("tls", "fe80::1%eth0", 99)),
        ("stomp+unix:///run/a.sock", Address("unix", path="/run/a.sock")),
        ("stomp+unix://u:p@/run/a%20b.sock", Address("unix", path="/run/a b.sock")),
        ("ws://h", Address("ws", "h", 80, "/")),
        ("wss://h/ws/stomp?token=a%2Fb", Address("wss", "h", 443, "/ws/stomp?token=a%2Fb")),
        ("ws://h:15674?x", Address("ws", "h", 15674, "/?x")),
    ],
)
def test_one_address(url: str, address: Address) -> None:
    target = parse_target(url)
    assert target.addresses == (address,)
    assert target.host == "/"


def test_several_hosts_share_credentials_and_virtual_host() -> None:
    target = parse_target("stomp://user:pa%40ss%3A@h1,h2:7,[::1]:8/vh%2Fost")
    assert target == Target(
        (Address("tcp", "h1", 61613), Address("tcp", "h2", 7), Address("tcp", "::1", 8)), "user", "pa@ss:", "vh/ost"
    )


def test_several_urls_share_what_any_of_them_says() -> None:
    target = parse_target(["stomp://h1", "stomp+unix://u:p@/s/s", "ws://h3/x", "stomp://u:p@h4/vh"])
    assert [address.endpoint for address in target.addresses] == ["h1:61613", "/s/s", "h3:80", "h4:61613"]
    assert (target.login, target.passcode, target.host) == ("u", "p", "vh")


def test_a_login_goes_without_a_passcode() -> None:
    assert parse_target("stomp://u@h").passcode is None
    assert parse_target("stomp://u:@h").passcode == ""
    assert parse_target("stomp://h").login is None


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "scheme"),
        ("localhost:61613", "scheme"),
        ("http://h", "'http'"),
        ("stomp://", "no host"),
        ("stomp://u:p@", "no host"),
        ("stomp://h1,,h2", "no host"),
        ("stomp://:1", "no host"),
        ("stomp://h:0", "0 of the host 'h'"),
        ("stomp://h:65536", "65536"),
        ("stomp://h:", "port"),
        ("stomp://h:x", "after the host 'h'"),
        ("stomp://h:１", "port"),
        ("stomp://h:+1", "port"),
        ("stomp://::1", "brackets"),
        ("stomp://[::1", "around the IPv6 address"),
        ("stomp://[::1]7", "around the IPv6 address"),
        ("stomp://[::1]:", "port"),
        ("stomp://[host]:1", "IPv6"),
        ("stomp://h%2Fx", "character"),
        ("stomp://h?x=1", "options"),
        ("stomp://h/v#f", "%23"),
        ("stomp://h h", "blank"),
        ("stomp://h\n", "blank"),
        ("stomp://h/%zz", "virtual host"),
        ("stomp://h/%ff", "UTF-8"),
        ("stomp://h/a%0Ab", "CONNECT"),
        ("stomp://@h", "no login"),
        ("stomp+unix://h/run/s", "'h'"),
        ("stomp+unix://", "no path"),
        ("stomp+unix:///", "no path"),
        ("stomp+unix:///s?x", "no path"),
        ("ws://h/#x", "%23"),
    ],
)
def test_errors_name_the_part_that_is_wrong(url: str, part: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_target(url)
    assert part in str(caught.value)
    assert isinstance(caught.value, ClientError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["stomp://u:p@h", "stomp://u:q@h"],
        ["stomp://u@h", "stomp://v@h"],
        ["stomp://h/a", "stomp://h/b"],
    ],
)
def test_urls_that_do_not_go_together(urls: list[str]) -> None:
    with pytest.raises(AddressError):
        parse_target(urls)


@pytest.mark.parametrize(
    "url",
    [
        f"stomp://user:{SECRET}/@h",
        f"stomp://user:{SECRET}?@h",
        f"stomp://user:{SECRET}#x@h",
        f"stomp://user:@{SECRET}@h",
        f"stomp://user:{SECRET}:1@h",
        f"stomp://user:{SECRET}%@h",
        f"stomp://user:{SECRET}%ff@h",
        f"stomp://user:{SECRET}%0a@h",
        f"stomp://user:{SECRET} @h",
        f"stomp://user:{SECRET}@h:x",
        f"user:{SECRET}@h",
        f"//user:{SECRET}@h",
        f"user:{SECRET}@h://",
        f"stomp://user:{SECRET}",
        f"stomp://user:{SECRET}/h",
        f"stomp://user:{SECRET}:x",
        f"stomp://user:[{SECRET}",
        f"stomp://[{SECRET}]h",
        f"stomp://u:{SECRET}@h1,u:{SECRET}@h2",
        f"stomp+unix://user:{SECRET}@h/s",
        f"wss://user:{SECRET}@h#",
    ],
)
def test_errors_never_show_a_passcode(url: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_target(url)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


def test_targets_and_addresses_hide_what_is_secret() -> None:
    target = parse_target([f"stomp://user:{SECRET}@h1,h2/v", f"wss://h3/ws?token={SECRET}"])
    assert SECRET not in f"{target} {target!r} {target.addresses[2]} {target.addresses[2]!r}"
    assert str(target) == "stomp://h1:61613, stomp://h2:61613, wss://h3:443/ws"
    assert str(Address("tcp", "::1", 5)) == "stomp://[::1]:5"
    assert str(Address("unix", path="/a/b")) == "stomp+unix:///a/b"


_PLAIN = st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), min_size=1, max_size=8)


@given(login=_PLAIN, passcode=_PLAIN, host=_PLAIN)
def test_what_is_percent_encoded_comes_back(login: str, passcode: str, host: str) -> None:
    def written(text: str) -> str:
        return "".join(f"%{byte:02x}" for byte in text.encode())

    target = parse_target(f"stomp://{written(login)}:{written(passcode)}@h/{written(host)}")
    assert (target.login, target.passcode, target.host) == (login, passcode, host)


@given(
    st.lists(st.sampled_from(["stomp", "://", "ws", ":", "@", "/", "?", "#", "[", "]", "%", ",", "h", "1", "%41", " "]))
)
def test_any_text_is_a_target_or_an_address_error(pieces: list[str]) -> None:
    try:
        target = parse_target("".join(pieces))
    except AddressError:
        return
    for address in target.addresses:
        assert parse_target(str(address)).addresses[0].endpoint == address.endpoint


def test_targets_survive_pickling() -> None:
    target = parse_target("stomp://u:p@h/v")
    assert pickle.loads(pickle.dumps(target)) == target
