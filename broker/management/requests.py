"""What requests of all resources have in common: their parameters, and how an answer or a refusal is written."""

from __future__ import annotations

from aiohttp import web

from broker.management.listings import Cursor, Page

__all__ = ["BadRequest", "number", "page_answer", "page_of", "refusal"]

_MAX_LIMIT = 500
_MAX_TEXT = 200


class BadRequest(Exception):
    """A parameter that does not fit; the text says which and what it takes."""


def refusal(status: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status)


def page_of(request: web.Request) -> tuple[Cursor, int, str]:
    try:
        start = Cursor.parse(request.query.get("after", "0.0"))
    except ValueError:
        raise BadRequest("after takes the `next` of an earlier page") from None
    text = request.query.get("text", "")
    if len(text) > _MAX_TEXT:
        raise BadRequest(f"text takes at most {_MAX_TEXT} characters")
    return start, number(request, "limit", 100, 1, _MAX_LIMIT), text


def number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and low <= int(text) <= high):
        raise BadRequest(f"{name} takes a whole number from {low} to {high}")
    return int(text)


def page_answer(name: str, page: Page) -> web.Response:
    return web.json_response(
        {
            name: page.entries,
            "next": None if page.next is None else str(page.next),
            "unanswered": sorted(page.unanswered),
        }
    )
