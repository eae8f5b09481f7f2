"""Bodies and headers as applications give and get them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.bodies import Body, decode_text, encode_body, header_list

TEXT, JSON = "text/plain;charset=utf-8", "application/json"


@pytest.mark.parametrize(
    ("body", "content_type", "encoded"),
    [
        (b"\0\xff", None, (b"\0\xff", None)),
        (bytearray(b"ab"), None, (b"ab", None)),
        (memoryview(b"abcd")[1:3], "a/b", (b"bc", "a/b")),
        ("é", None, ("é".encode(), TEXT)),
        ("", None, (b"", TEXT)),
        ("é", "text/plain; charset=latin-1", (b"\xe9", "text/plain; charset=latin-1")),
        ("é", 'text/xml; a=b; Charset="UTF-16LE"', (b"\xe9\0", 'text/xml; a=b; Charset="UTF-16LE"')),
        ("é", "text/html", ("é".encode(), "text/html")),
        ({"é": [1, None]}, None, ('{"é":[1,null]}'.encode(), JSON)),
        ([], None, (b"[]", JSON)),
        ({}, "application/vnd.x+json", (b"{}", "application/vnd.x+json")),
    ],
)
def test_each_kind_of_body(body: Body, content_type: str | None, encoded: tuple[bytes, str | None]) -> None:
    assert encode_body(body, content_type) == encoded
    assert isinstance(encode_body(body, content_type)[0], bytes)


@pytest.mark.parametrize("body", [1, None, 1.5, {"a": {1, 2}}, (1, 2)])
def test_what_is_no_body(body: object) -> None:
    with pytest.raises(TypeError):
        encode_body(body, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("content_type", ["text/plain;charset=klingon", "text/plain;charset=latin-1"])
def test_text_that_its_charset_cannot_express(content_type: str) -> None:
    with pytest.raises(ValueError):
        encode_body("€", content_type)


def test_text_that_is_none() -> None:
    with pytest.raises(ValueError):
        decode_text(b"\xff", None)
    with pytest.raises(ValueError, match="klingon"):
        decode_text(b"a", "text/plain;charset=klingon")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([None, "text/plain;charset=utf-16", "a/b"]))
def test_text_comes_back(text: str, content_type: str | None) -> None:
    assert decode_text(*encode_body(text, content_type)) == text


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.integers() | st.booleans()))
def test_json_comes_back(value: dict[str, object]) -> None:
    assert json.loads(encode_body(value, None)[0]) == value


def test_headers_by_mapping_or_pairs() -> None:
    assert header_list({"a": "1", "b": "2"}) == header_list([("a", "1"), ("b", "2")]) == [("a", "1"), ("b", "2")]
    assert header_list(()) == header_list(None) == []
    given = [("a", "1")]
    assert header_list(given) is not given


@pytest.mark.parametrize("headers", [{"a": False}, {"a": 1}, {"a": None}, [(1, "a")], {"a": b"1"}])
def test_headers_that_are_no_text(headers: object) -> None:
    with pytest.raises(TypeError, match="names and values are text"):
        header_list(headers)
