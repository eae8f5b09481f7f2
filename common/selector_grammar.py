"""The grammar of selectors: text to tokens to one closure, by recursive descent. `common.selector` states it."""

from __future__ import annotations

import re
from typing import NamedTuple

from common.errors import StompError
from common.selector_like import MAX_MIXED_CHARS, compile_pattern, is_mixed, matcher_of
from common.selector_terms import (
    Kind,
    Run,
    Term,
    all_of,
    any_of,
    between,
    calculate,
    compare,
    header,
    is_in,
    is_null,
    like,
    literal,
    minus,
    mistake,
    negate,
    number_of,
    quoted_header,
    truth,
)

__all__ = ["MAX_DEPTH", "MAX_MIXED_PATTERNS", "parse"]

MAX_DEPTH = 32
"""Parentheses within parentheses. Each costs some eight calls, of the thousand that Python allows in all."""
MAX_MIXED_PATTERNS = 8
"""Patterns of LIKE with both wildcards: each is a step of the interpreter for every character of a header."""

_PREFIXES = re.compile(r"(?:\s*(?:convert_string_expressions|hyphenated_props):)*")
_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r\n\f]+)
    | (?P<hex>0[xX][0-9a-fA-F]+)[lL]?
    | (?P<float>(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+(?:[eE][+-]?[0-9]+|(?=[fFdD])))[fFdD]?
    | (?P<whole>[0-9]+)[lL]?
    | '(?P<text>(?:[^']++|'')*+)'
    | "(?P<quoted>(?:[^"]++|"")++)"
    | (?P<name>(?:[^\W\d]|\$)(?:[\w$]|[-.](?=[^\W\d]))*)
    | (?P<sign><>|<=|>=|!=|[=<>+\-*/(),])
    """,
    re.VERBOSE,
)
_KEYWORDS = frozenset(
    {"AND", "OR", "NOT", "BETWEEN", "IN", "LIKE", "ESCAPE", "IS", "NULL", "TRUE", "FALSE"},
)
_COMPARISONS = ("=", "<>", "!=", "<", "<=", ">", ">=")
_OPERAND = "a header, a literal or ("


class _Token(NamedTuple):
    """`word` is the upper-case keyword, the sign, or the kind of a value in lower case; `end` at the end."""

    word: str
    value: str
    at: int
    shown: str


def parse(text: str) -> tuple[Run, int]:
    """The condition that `text` states, whose length is the caller's to bound, and how many patterns of LIKE in it hold
    both wildcards. Raises StompError `bad-value`."""
    parser = _Parser(_tokens(text))
    return parser.whole(), parser.mixed


def _tokens(text: str) -> list[_Token]:
    prefixes = _PREFIXES.match(text)
    at = prefixes.end() if prefixes else 0
    tokens = []
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            unclosed = {"'": "a ' to end the text", '"': 'a name and a " to end it'}.get(text[at])
            raise mistake(at, repr(text[at : at + 20]), unclosed or "a header, a literal or an operator")
        kind = match.lastgroup or ""
        value = match[kind]
        word = kind
        if kind == "name" and value.upper() in _KEYWORDS:
            word = value.upper()
        elif kind == "sign":
            word = value
        if kind != "blank":
            tokens.append(_Token(word, value, at, repr(match[0][:40])))
        at = match.end()
    tokens.append(_Token("end", "", len(text), "the end"))
    return tokens


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._token = tokens[0]
        self._depth = 0
        self.mixed = 0

    def whole(self) -> Run:
        condition = truth(self._any())
        if self._token.word != "end":
            raise self._unexpected("an operator or the end")
        return condition

    def _take(self, *words: str) -> _Token | None:
        """The token, if it is one of `words`; then the next is looked at."""
        token = self._token
        if token.word not in words:
            return None
        self._place += 1
        self._token = self._tokens[self._place]
        return token

    def _need(self, *words: str, expected: str = "") -> _Token:
        token = self._take(*words)
        if token is None:
            raise self._unexpected(expected or words[0])
        return token

    def _unexpected(self, expected: str) -> StompError:
        return mistake(self._token.at, self._token.shown, expected)

    def _any(self) -> Term:
        terms = [self._all()]
        while self._take("OR"):
            terms.append(self._all())
        return terms[0] if len(terms) == 1 else any_of(terms)

    def _all(self) -> Term:
        terms = [self._not()]
        while self._take("AND"):
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else all_of(terms)

    def _not(self) -> Term:
        # Counted, not nested: two cancel each other out, for NULL too.
        count = 0
        while self._take("NOT"):
            count += 1
        term = self._predicate()
        if not count:
            return term
        return negate(term) if count % 2 else negate(negate(term))

    def _predicate(self) -> Term:
        term = self._sum()
        sign = self._take(*_COMPARISONS)
        if sign is not None:
            return compare(term, sign.word, self._sum())
        if self._take("IS"):
            negative = self._take("NOT") is not None
            self._need("NULL")
            return negate(is_null(term)) if negative else is_null(term)
        negative = self._take("NOT") is not None
        if self._take("BETWEEN"):
            low = self._sum()
            self._need("AND", expected="AND and the upper bound of BETWEEN")
            found = between(term, low, self._sum())
        elif self._take("IN"):
            found = is_in(term, self._list())
        elif self._take("LIKE"):
            found = self._like(term)
        elif negative:
            raise self._unexpected("BETWEEN, IN or LIKE after NOT")
        else:
            return term
        return negate(found) if negative else found

    def _list(self) -> list[Term]:
        self._need("(", expected="( and a list of literals")
        members = [self._member()]
        while self._take(","):
            members.append(self._member())
        self._need(")", expected=", or )")
        return members

    def _member(self) -> Term:
        token = self._token
        term = self._signed()
        if term.value is None or term.kind is Kind.TRUTH:
            raise mistake(token.at, token.shown, "a text or a number in the list of IN")
        return term

    def _like(self, term: Term) -> Term:
        token = self._need("text", expected="a pattern in quotes after LIKE")
        escape = None
        if self._take("ESCAPE"):
            quoted = self._need("text", expected="one character in quotes after ESCAPE")
            escape = _unquoted(quoted.value, "'")
            if len(escape) != 1:
                raise mistake(quoted.at, quoted.shown, "one character in quotes after ESCAPE")
        try:
            pattern = compile_pattern(_unquoted(token.value, "'"), escape)
        except ValueError as error:
            raise mistake(token.at, token.shown, str(error)) from None
        if is_mixed(pattern):
            self.mixed += 1
            if self.mixed > MAX_MIXED_PATTERNS:
                raise mistake(token.at, token.shown, f"at most {MAX_MIXED_PATTERNS} patterns that hold both % and _")
            if len(pattern) > MAX_MIXED_CHARS:
                raise mistake(token.at, token.shown, f"at most {MAX_MIXED_CHARS} characters with both % and _")
        return like(term, matcher_of(pattern))

    def _sum(self) -> Term:
        first = self._product()
        rest = []
        while sign := self._take("+", "-"):
            rest.append((sign.word, self._product()))
        return calculate(first, rest) if rest else first

    def _product(self) -> Term:
        first = self._signed()
        rest = []
        while sign := self._take("*", "/"):
            rest.append((sign.word, self._signed()))
        return calculate(first, rest) if rest else first

    def _signed(self) -> Term:
        signs = []
        while sign := self._take("+", "-"):
            signs.append(sign.word)
        term = self._primary()
        if not signs:
            return term
        term = minus(term)
        return term if signs.count("-") % 2 else minus(term)

    def _primary(self) -> Term:
        token = self._token
        if self._take("("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise mistake(token.at, token.shown, f"at most {MAX_DEPTH} parentheses within each other")
            term = self._any()
            self._need(")", expected="an operator or )")
            self._depth -= 1
            return term
        self._need("name", "quoted", "text", "hex", "float", "whole", "TRUE", "FALSE", expected=_OPERAND)
        match token.word:
            case "name":
                return header(token.at, token.value)
            case "quoted":
                return quoted_header(token.at, _unquoted(token.value, '"'))
            case "text":
                return literal(Kind.TEXT, token.at, _unquoted(token.value, "'"))
            case "TRUE" | "FALSE":
                return literal(Kind.TRUTH, token.at, token.word == "TRUE")
        return literal(Kind.NUMBER, token.at, _number(token))


def _number(token: _Token) -> int | float:
    if token.word == "hex":
        # Beyond 64 bits a number of any base is a double.
        value = number_of(str(int(token.value, 16))) if len(token.value) <= 40 else None
    elif token.word == "whole" and token.value.startswith("0") and token.value.strip("0"):
        raise mistake(token.at, token.shown, "a whole number without a leading zero")
    else:
        value = number_of(token.value)
    if value is None:
        raise mistake(token.at, token.shown, "a number of at most 64 characters that a double can hold")
    return value


def _unquoted(text: str, quote: str) -> str:
    return text.replace(quote * 2, quote)
