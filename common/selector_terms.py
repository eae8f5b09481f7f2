"""What a selector's parts compute: closures from headers to text, a number, a truth value or NULL (None).

Knows no grammar. Which kinds of parts go together is decided here, once, when the selector is parsed; a match only runs
closures. Chains of one operator are one closure over a list, so their length costs no depth of calls.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from common.errors import ErrorCode, StompError

__all__ = [
    "Kind",
    "Number",
    "Run",
    "Term",
    "all_of",
    "any_of",
    "between",
    "calculate",
    "compare",
    "header",
    "is_in",
    "is_null",
    "like",
    "literal",
    "minus",
    "mistake",
    "negate",
    "number_of",
    "quoted_header",
    "truth",
]

Number = int | float
Headers = Mapping[str, str]
Run = Callable[[Headers], Any]

_LONG = 1 << 63
_NUMBER_CHARS = 64
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?")


class Kind(Enum):
    """What a part is, in the words of a mistake. A header may stand for any of the others."""

    TEXT = "a text"
    NUMBER = "a number"
    TRUTH = "a condition"
    HEADER = "a header"


class Term(NamedTuple):
    """A part of a selector: `at` is where it starts, `value` what it is if it is a literal."""

    kind: Kind
    at: int
    run: Run
    value: Any = None


def mistake(at: int, found: str, expected: str) -> StompError:
    """The error for what is wrong at character `at`, counted from 0."""
    return StompError(ErrorCode.BAD_VALUE, "bad selector", f"character {at + 1}: found {found}, expected {expected}")


# --- values


def literal(kind: Kind, at: int, value: Any) -> Term:
    return Term(kind, at, lambda headers: value, value)


def quoted_header(at: int, name: str) -> Term:
    return Term(Kind.HEADER, at, lambda headers: headers.get(name))


def header(at: int, name: str) -> Term:
    """The header that an unquoted `name` means."""
    run = _JMS.get(name)
    return quoted_header(at, name) if run is None else Term(Kind.HEADER, at, run)


_RENAMED = {
    "JMSMessageID": "message-id",
    "JMSCorrelationID": "correlation-id",
    "JMSType": "type",
    "JMSTimestamp": "timestamp",
    "JMSReplyTo": "reply-to",
    "JMSDestination": "destination",
    "JMSExpiration": "expires",
}
_JMS: dict[str, Run] = {
    **{name: operator.methodcaller("get", ours) for name, ours in _RENAMED.items()},
    "JMSPriority": lambda headers: headers.get("priority", "4"),
    "JMSDeliveryMode": lambda headers: (
        "PERSISTENT" if headers.get("persistent", "").lower() == "true" else "NON_PERSISTENT"
    ),
    "JMSXGroupID": lambda headers: headers.get("JMSXGroupID", headers.get("group-id")),
}


def number_of(text: str | None) -> Number | None:
    """The number that `text` is written as, or None."""
    if text is None:
        return None
    if text.isdecimal() and text.isascii() and len(text) < 19:
        return int(text)
    if len(text) > _NUMBER_CHARS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return _bounded(float(text) if match.lastindex else int(text))


def _truth_of(text: str | None) -> bool | None:
    if text is None:
        return None
    return {"true": True, "false": False}.get(text.lower())


def _bounded(value: Number) -> Number | None:
    if isinstance(value, int):
        if -_LONG <= value < _LONG:
            return value
        value = float(value)
    return value if math.isfinite(value) else None


def _number(term: Term) -> Run:
    if term.kind is Kind.NUMBER:
        return term.run
    if term.kind is Kind.HEADER:
        run = term.run
        return lambda headers: number_of(run(headers))
    hint = "; text is compared with = and <> only, and a number stands without quotes" * (term.kind is Kind.TEXT)
    raise mistake(term.at, term.kind.value, f"a number or a header{hint}")


def truth(term: Term) -> Run:
    """The closure of a term as a condition; raises StompError `bad-value` if it cannot be one."""
    if term.kind is Kind.TRUTH:
        return term.run
    if term.kind is Kind.HEADER:
        run = term.run
        return lambda headers: _truth_of(run(headers))
    raise mistake(term.at, term.kind.value, "a condition, such as a comparison")


# --- calculation


def _divide(left: Number, right: Number) -> Number | None:
    if not right:
        return None
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return _bounded(quotient if (left < 0) is (right < 0) else -quotient)
    return _bounded(left / right)


_CALCULATIONS: dict[str, Callable[[Number, Number], Number | None]] = {
    "+": lambda left, right: _bounded(left + right),
    "-": lambda left, right: _bounded(left - right),
    "*": lambda left, right: _bounded(left * right),
    "/": _divide,
}


def minus(term: Term) -> Term:
    operand = _number(term)
    if term.value is not None:
        return literal(Kind.NUMBER, term.at, _bounded(-term.value))

    def run(headers: Headers) -> Number | None:
        value = operand(headers)
        return None if value is None else _bounded(-value)

    return Term(Kind.NUMBER, term.at, run)


def calculate(first: Term, rest: Sequence[tuple[str, Term]]) -> Term:
    """`first` and then each operator with its operand, from left to right."""
    start = _number(first)
    steps = [(_CALCULATIONS[sign], _number(term)) for sign, term in rest]

    def run(headers: Headers) -> Number | None:
        total: Number | None = start(headers)
        for step, operand in steps:
            value = operand(headers)
            if total is None or value is None:
                return None
            total = step(total, value)
        return total

    return Term(Kind.NUMBER, first.at, run)


# --- conditions

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compare(left: Term, sign: str, right: Term) -> Term:
    """Raises StompError `bad-value` for what cannot be compared so."""
    kinds = {left.kind, right.kind} - {Kind.HEADER}
    if sign not in ("=", "<>", "!=") or kinds == {Kind.NUMBER}:
        first, second = _number(left), _number(right)
    elif kinds == {Kind.TRUTH}:
        first, second = truth(left), truth(right)
    elif len(kinds) < 2:
        first, second = left.run, right.run
    else:
        raise mistake(right.at, right.kind.value, f"{left.kind.value} or a header, to compare with {left.kind.value}")
    test = _COMPARISONS[sign]
    constant = right.value
    if constant is not None:

        def run(headers: Headers) -> bool | None:
            value = first(headers)
            return None if value is None else test(value, constant)

    else:

        def run(headers: Headers) -> bool | None:
            value = first(headers)
            other = second(headers)
            return None if value is None or other is None else test(value, other)

    return Term(Kind.TRUTH, left.at, run)


def between(term: Term, low: Term, high: Term) -> Term:
    operand, least, most = _number(term), _number(low), _number(high)

    def run(headers: Headers) -> bool | None:
        value = operand(headers)
        if value is None:
            return None
        bottom, top = least(headers), most(headers)
        if (bottom is not None and value < bottom) or (top is not None and value > top):
            return False
        return None if bottom is None or top is None else True

    return Term(Kind.TRUTH, term.at, run)


def is_in(term: Term, members: Sequence[Term]) -> Term:
    texts = frozenset(member.value for member in members if member.kind is Kind.TEXT)
    numbers = frozenset(member.value for member in members if member.kind is Kind.NUMBER)
    operand = term.run
    if term.kind is Kind.NUMBER and not texts:

        def run(headers: Headers) -> bool | None:
            value = operand(headers)
            return None if value is None else value in numbers

    elif term.kind is Kind.HEADER:

        def run(headers: Headers) -> bool | None:
            value = operand(headers)
            if value is None:
                return None
            if value in texts:
                return True
            if not numbers:
                return False
            number = number_of(value)
            return None if number is None else number in numbers

    else:
        raise mistake(term.at, term.kind.value, "a header before IN" + ", or numbers alone in its list" * bool(texts))
    return Term(Kind.TRUTH, term.at, run)


def is_null(term: Term) -> Term:
    operand = term.run
    return Term(Kind.TRUTH, term.at, lambda headers: operand(headers) is None)


def like(term: Term, matcher: Callable[[str], bool]) -> Term:
    if term.kind is not Kind.HEADER:
        raise mistake(term.at, term.kind.value, "a header before LIKE")
    operand = term.run

    def run(headers: Headers) -> bool | None:
        value = operand(headers)
        return None if value is None else matcher(value)

    return Term(Kind.TRUTH, term.at, run)


def negate(term: Term) -> Term:
    operand = truth(term)

    def run(headers: Headers) -> bool | None:
        value = operand(headers)
        return None if value is None else not value

    return Term(Kind.TRUTH, term.at, run)


def all_of(terms: Sequence[Term]) -> Term:
    """AND: one FALSE decides, else one NULL."""
    return _combine(terms, decisive=False)


def any_of(terms: Sequence[Term]) -> Term:
    """OR: one TRUE decides, else one NULL."""
    return _combine(terms, decisive=True)


def _combine(terms: Sequence[Term], *, decisive: bool) -> Term:
    runs = [truth(term) for term in terms]

    def run(headers: Headers) -> bool | None:
        result: bool | None = not decisive
        for each in runs:
            value: bool | None = each(headers)
            if value is decisive:
                return decisive
            if value is None:
                result = None
        return result

    return Term(Kind.TRUTH, terms[0].at, run)
