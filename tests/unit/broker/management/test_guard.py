"""Requests that come from another web site than the interface's own."""

from __future__ import annotations

import pytest

from broker.management.guard import Guard

GUARD = Guard(["127.0.0.2", "Broker.Example"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:15613",
        "127.0.0.1:9",
        "[::1]:15613",
        "[::1]",
        "127.0.0.2",
        "LOCALHOST",
        "broker.example:80",
    ],
)
def test_names_of_its_own_are_let_in(host: str) -> None:
    assert GUARD.refuses("GET", {"Host": host}) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", "evil.example", "evil.example:15613", "127.0.0.3", "[::1", "evil.example/localhost"),
        *("localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1 evil.example", "localhost@evil.example"),
        *("evil.example#localhost", "localhost#evil.example", "localhost/evil.example", "localhost?evil.example"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_names_are_not(host: str, method: str) -> None:
    assert "by which this interface is not known" in GUARD.refuses(method, {"Host": host})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"Origin": "http://localhost:15613"},
        {"Origin": "https://localhost:15613"},
        {"Origin": "http://LOCALHOST:15613", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_post_of_its_own_page_or_of_a_program_is_let_in(more: dict[str, str]) -> None:
    assert GUARD.refuses("POST", {"Host": "localhost:15613", **more}) == ""


@pytest.mark.parametrize(
    "more",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:15614"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_a_post_of_another_site_is_not(more: dict[str, str]) -> None:
    headers = {"Host": "localhost:15613", **more}
    assert "web site" in GUARD.refuses("POST", headers)
    assert GUARD.refuses("GET", headers) == "", "it cannot read the answer"
