"""Selectors: a table of the language, and laws against a model that walks the syntax tree it made the text of."""

from __future__ import annotations

import gc
import inspect
import math
import string
import sys
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import ErrorCode, StompError
from common.selector import MAX_CHARS, Selector, _live
from common.selector_grammar import MAX_DEPTH, MAX_MIXED_PATTERNS
from common.selector_like import MAX_MIXED_CHARS

HEADERS = {
    "destination": "/topic/a.b",
    "message-id": "0-1-1",
    "content-type": "text/plain",
    "a.b-c": "dotted",
    "color": "blue",
    "Country": "UK",
    "age": "17",
    "weight": "2500.5",
    "negative": "-7",
    "big": "9223372036854775807",
    "zero": "0",
    "yes": "true",
    "No": "FALSE",
    "empty": "",
    "quote": "Joe's",
    "under": "_foo",
    "percent": "50%",
    "lines": "one\ntwo",
    "odd name": "x",
    'a"b': "y",
    "AND": "keyword",
    "größe": "5",
    "$x_1": "z",
    "type": "news",
    "correlation-id": "c",
    "reply-to": "/topic/r",
    "timestamp": "1000",
    "expires": "2000",
    "group-id": "g",
    "like_number": "1_000",
    "arabic": "٣",
    "spaced": " 5",
    "hexed": "0x10",
    "huge": "1e999",
    "long": "1" * 65,
}

TRUE = """
color = 'blue'
color <> 'red'
color != 'red'
'blue' = color
age = 17
age = 17.0
17 = age
age <> 18
age<18 AND age>16 AND age<=17 AND age>=17
age = 0x11
age = 0X11L
age = 17L
age = 1.7E1
age = 170e-1d
age = 17f
age > .5
age > 7.
age BETWEEN 15 AND 19
age BETWEEN 17 AND 17
age NOT BETWEEN 18 AND 19
NOT age BETWEEN 18 AND 19
age BETWEEN 10 + 6 AND zero + 18
Country IN ('UK', 'US', 'France')
Country NOT IN ('US', 'France')
age IN (16, 17)
age IN (1, 'a', +17.0)
negative IN (-7)
negative NOT IN (7, -8)
age + 1 IN (18)
color LIKE 'b%e'
color LIKE 'b__e'
color LIKE '%'
color LIKE '%lu%'
color LIKE '_lu%'
color LIKE 'blue'
color LIKE 'blue%'
color LIKE '%blue'
color NOT LIKE 'blue_'
color NOT LIKE 'B%'
empty LIKE ''
empty LIKE '%'
empty NOT LIKE '_'
empty = ''
empty IS NOT NULL
under LIKE '\\_%' ESCAPE '\\'
percent LIKE '%x%' ESCAPE 'x'
percent LIKE '50!%' ESCAPE '!'
percent NOT LIKE '51!%' ESCAPE '!'
lines LIKE 'one%two'
lines LIKE 'one_two'
lines LIKE 'o_e%'
quote = 'Joe''s'
quote LIKE '%''%'
absent IS NULL
color IS NOT NULL
NOT color IS NULL
absent + 1 IS NULL
age / zero IS NULL
age / 0.0 IS NULL
age / 0 = 1 OR color = 'blue'
1e300 * 1e300 IS NULL
huge + 0 IS NULL
long + 0 IS NULL
age * 2 + 1 = 35
1 + age * 2 = 35
(1 + age) * 2 = 36
age - 1 - 1 = 15
age / 2 = 8
negative / 2 = -3
age / 2.0 = 8.5
8 / 2 / 2 = 2
-age = -17
- -age = 17
--age=+17
+age = 17
-(age + 1) = -18
negative = -7
age-1 = 16
age -1 = 16
age - zero = 17
age*-1 = -17
weight > 2500 AND color = 'blue'
big = 9223372036854775807
big > 9223372036854775806
big + 1 = 9223372036854775808
-9223372036854775808 < -big
yes
yes = TRUE
yes <> FALSE
NOT No
No = false
yes AND NOT No
TRUE
NOT FALSE
true or absent
(color = 'blue') = TRUE
(color = 'blue') = yes
(color = 'blue') <> (color = 'red')
color = 'red' OR color = 'blue' AND age = 17
NOT color = 'red' AND age = 17
not not yes
not color='red' or age=18
( ( color ) ) = 'blue'
color\t=\n'blue'\r\f
color='blue'AND(age=17)
content-type = 'text/plain'
content-type='text/plain'
"content-type" = 'text/plain'
a.b-c = 'dotted'
"odd name" = 'x'
"a""b" = 'y'
"AND" = 'keyword'
größe > 4
$x_1 = 'z'
destination = '/topic/a.b'
destination LIKE '/topic/a.%'
message-id IS NOT NULL
age = age
zero < age
negative < zero
JMSPriority = 4
JMSPriority = '4'
JMSPriority IS NOT NULL
JMSDeliveryMode = 'NON_PERSISTENT'
JMSMessageID = '0-1-1'
JMSCorrelationID = 'c'
JMSType = 'news'
JMSTimestamp + 1000 = JMSExpiration + 0
JMSReplyTo LIKE '/topic/%'
JMSDestination = destination
JMSXGroupID = 'g'
"JMSType" IS NULL
jmstype IS NULL
convert_string_expressions:age > 5
hyphenated_props:content-type = 'text/plain'
convert_string_expressions:hyphenated_props:age > 5
JMSType = 'car' OR JMSType = 'news' AND weight > 2500
"""

NULL = """
absent
absent = 'x'
absent <> 'x'
absent = absent
absent = 1
absent > 1
absent LIKE '%'
absent NOT LIKE 'x'
absent IN ('x')
absent NOT IN ('x')
absent BETWEEN 1 AND 2
absent NOT BETWEEN 1 AND 2
color > 1
color = 1
color <> 1
color + 1 = 1
color IN (1, 2)
color NOT IN (1, 2)
color NOT IN ('red', 1)
color BETWEEN 1 AND 2
age BETWEEN absent AND 18
color < Country
color
age
color = TRUE
color <> TRUE
like_number > 0
arabic > 0
spaced > 0
hexed > 0
empty = 0
age / 0 > 1
age / zero > 1
absent AND yes
absent OR No
NOT absent
NOT (absent = 1)
"""

FALSE = """
color = 'Blue'
color = 'red'
age <> 17
age > 17
age BETWEEN 18 AND 17
age BETWEEN 18 AND absent
age NOT BETWEEN absent AND 18 AND No
age IN (1, 2)
color IN ('red')
color IN ('Blue')
color LIKE 'lu'
color LIKE '%z%'
color LIKE 'bl_'
color LIKE 'b%lue%e'
color IS NULL
absent IS NOT NULL
yes = FALSE
No
FALSE
absent AND No
NOT yes
NOT NOT No
weight = '2500.50'
color = Country
JMSPriority > 4
JMSPriority IS NULL
JMSDeliveryMode = 'PERSISTENT'
"""

BAD = {
    "": "character 1: found the end, expected a header, a literal or (",
    "   ": "character 4: found the end, expected a header, a literal or (",
    "convert_string_expressions:": "character 28: found the end",
    "=": "character 1: found '=', expected a header",
    "color =": "character 8: found the end, expected a header",
    "color = = 'x'": "character 9: found '='",
    "color == 'x'": "character 8: found '='",
    "color 'x'": "character 7: found \"'x'\", expected an operator or the end",
    "a = 1 = 2": "character 7: found '=', expected an operator or the end",
    "a = 1 b = 2": "character 7: found 'b'",
    "(a = 1": "character 7: found the end, expected an operator or )",
    "a = 1)": "character 6: found ')', expected an operator or the end",
    "()": "character 2: found ')'",
    "a = 'x": "character 5: found \"'x\", expected a ' to end the text",
    "a = 'x''": "character 5:",
    '"a = 1': 'expected a name and a " to end it',
    '"" = 1': 'expected a name and a " to end it',
    "a ~ 1": "character 3: found '~ 1', expected a header, a literal or an operator",
    "a = 1;": "character 6:",
    "a\0 = 1": "character 2:",
    "1": "character 1: found a number, expected a condition",
    "'x'": "found a text, expected a condition",
    "a + 1": "found a number, expected a condition",
    "NOT 1": "character 5: found a number, expected a condition",
    "a AND 'x'": "character 7: found a text, expected a condition",
    "a = 1 OR 2": "character 10: found a number, expected a condition",
    "a < 'x'": "character 5: found a text, expected a number or a header; text is compared with = and <> only",
    "a > TRUE": "character 5: found a condition, expected a number or a header",
    "a + 'x' = 1": "character 5: found a text",
    "-'x' = a": "character 2: found a text",
    "TRUE + 1 = 1": "character 1: found a condition",
    "1 = 'x'": "character 5: found a text, expected a number or a header, to compare with a number",
    "TRUE = 1": "character 8: found a number, expected a condition or a header",
    "'x' = FALSE": "character 7: found a condition, expected a text or a header",
    "a BETWEEN 1": "character 12: found the end, expected AND and the upper bound",
    "a BETWEEN 'x' AND 'z'": "character 11: found a text",
    "a NOT = 1": "character 7: found '=', expected BETWEEN, IN or LIKE after NOT",
    "a IS 1": "character 6: found '1', expected NULL",
    "a = NULL": "character 5: found 'NULL'",
    "a IN 'x'": "character 6: found \"'x'\", expected ( and a list",
    "a IN ()": "character 7: found ')'",
    "a IN ('x'": "character 10: found the end, expected , or )",
    "a IN ('x',)": "character 11: found ')'",
    "a IN (b)": "character 7: found 'b', expected a text or a number",
    "a IN (TRUE)": "character 7: found 'TRUE', expected a text or a number",
    "a IN (1 + 1)": "character 9: found '+', expected , or )",
    "'x' IN ('x')": "character 1: found a text, expected a header before IN",
    "1 IN ('x')": "character 1: found a number, expected a header before IN, or numbers",
    "a LIKE b": "character 8: found 'b', expected a pattern in quotes",
    "a LIKE 1": "character 8: found '1'",
    "1 LIKE 'x'": "character 1: found a number, expected a header before LIKE",
    "a LIKE 'x' ESCAPE": "character 18: found the end, expected one character in quotes",
    "a LIKE 'x' ESCAPE ''": "character 19: found \"''\", expected one character",
    "a LIKE 'x' ESCAPE 'ab'": "character 19: found \"'ab'\", expected one character",
    "a LIKE 'x!' ESCAPE '!'": "character 8: found \"'x!'\", expected %, _ or ! after the escape character !",
    "a LIKE '!x' ESCAPE '!'": "character 8:",
    "a = 017": "character 5: found '017', expected a whole number without a leading zero",
    "a = 1e999": "character 5: found '1e999', expected a number",
    "a = " + "1" * 65: "expected a number of at most 64 characters",
    "a = 0x" + "f" * 64: "expected a number",
    "a = 5x": "character 6: found 'x'",
    "a = 1.2.3": "character 8: found '.3'",
    "AND": "character 1: found 'AND'",
    "a AND": "character 6: found the end",
    "a b": "character 3: found 'b'",
    "NOT": "character 4: found the end",
}


def run(text: str, headers: dict[str, str] = HEADERS) -> bool | None:
    """The value of a condition in three-valued logic, told from what matches."""
    if Selector.parse(text).matches(headers):
        return True
    return False if Selector.parse(f"NOT ({text})").matches(headers) else None


# A line of these tables with a real line break in it would be two.
SPLIT = "color\t=\n'blue'\r\f"
TABLE = [
    (text, value)
    for table, value in ((TRUE.replace(SPLIT + "\n", ""), True), (NULL, None), (FALSE, False))
    for text in table.strip().split("\n")
]


@pytest.mark.parametrize(("text", "value"), [*TABLE, (SPLIT, True)])
def test_language(text: str, value: bool | None) -> None:
    assert run(text) is value


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_is_named_with_its_place(text: str) -> None:
    with pytest.raises(StompError) as caught:
        Selector.parse(text)
    assert caught.value.code is ErrorCode.BAD_VALUE
    assert caught.value.message == "bad selector"
    assert BAD[text] in caught.value.detail


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"priority": "9"}, "JMSPriority = 9"),
        ({"persistent": "true"}, "JMSDeliveryMode = 'PERSISTENT'"),
        ({"persistent": "false"}, "JMSDeliveryMode = 'NON_PERSISTENT'"),
        ({"JMSXGroupID": "own", "group-id": "other"}, "JMSXGroupID = 'own'"),
        ({}, "JMSXGroupID IS NULL AND JMSType IS NULL"),
        ({"JMSType": "x"}, "\"JMSType\" = 'x' AND JMSType IS NULL"),
    ],
)
def test_names_of_jms(headers: dict[str, str], text: str) -> None:
    assert run(text, headers) is True


# --- three-valued logic

WRITTEN = {True: "TRUE", False: "FALSE", None: "absent"}
VALUES = (True, False, None)


@pytest.mark.parametrize("left", VALUES)
@pytest.mark.parametrize("right", VALUES)
def test_truth_tables(left: bool | None, right: bool | None) -> None:
    pair = {left, right}
    conjunction = False if False in pair else None if None in pair else True
    disjunction = True if True in pair else None if None in pair else False
    assert run(f"{WRITTEN[left]} AND {WRITTEN[right]}") is conjunction
    assert run(f"{WRITTEN[left]} OR {WRITTEN[right]}") is disjunction
    assert run(f"NOT {WRITTEN[left]}") is (None if left is None else not left)


# --- laws, against a model that shares nothing with the parser

NAMES = ("a", "b", "c-d")
VALUE_TEXTS = ("0", "1", "-2", "3.5", "x", "xy", "true", "false", "", "1e1")
headers = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUE_TEXTS))
Tree = tuple[Any, ...]

names = st.tuples(st.just("name"), st.sampled_from(NAMES))
numbers = st.tuples(st.just("number"), st.sampled_from(("0", "1", "2", "3.5", "10", ".5")))
halves = st.tuples(st.just("number"), st.sampled_from(("0", "1", "2", ".5", "4.")))
texts = st.tuples(st.just("text"), st.sampled_from(VALUE_TEXTS))
# Divided by powers of two only: what the model calculates exactly, a double then holds exactly.
calculated = st.recursive(
    names | numbers,
    lambda inner: (
        st.tuples(st.just("sum"), inner, st.sampled_from("+-*"), inner)
        | st.tuples(st.just("sum"), inner, st.just("/"), halves)
        | st.tuples(st.just("minus"), inner)
    ),
    max_leaves=4,
)
patterns = st.text("xy%_", max_size=4)
atoms = (
    st.tuples(st.just("compare"), calculated, st.sampled_from(("=", "<>", "<", "<=", ">", ">=")), numbers)
    | st.tuples(st.just("text="), names, st.sampled_from(("=", "<>")), texts)
    | st.tuples(st.just("null"), calculated)
    | st.tuples(st.just("between"), calculated, calculated, numbers)
    | st.tuples(st.just("in"), names, st.lists(numbers | texts, min_size=1, max_size=3))
    | st.tuples(st.just("like"), names, patterns)
    | names.map(lambda name: ("flag", name))
)
conditions = st.recursive(
    atoms,
    lambda inner: (
        st.tuples(st.just("and"), inner, inner)
        | st.tuples(st.just("or"), inner, inner)
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=6,
)


def write(tree: Tree) -> str:
    match tree:
        case ("name" | "number", text):
            return str(text)
        case ("text", text):
            return f"'{text}'"
        case ("sum", left, sign, right):
            return f"({write(left)} {sign} {write(right)})"
        case ("minus", inner):
            return f"(- {write(inner)})"
        case ("compare" | "text=", left, sign, right):
            return f"{write(left)} {sign} {write(right)}"
        case ("null", inner):
            return f"{write(inner)} IS NULL"
        case ("between", value, low, high):
            return f"{write(value)} BETWEEN {write(low)} AND {write(high)}"
        case ("in", value, members):
            return f"{write(value)} IN ({', '.join(map(write, members))})"
        case ("like", value, pattern):
            return f"{write(value)} LIKE '{pattern}'"
        case ("flag", name):
            return write(name)
        case ("and" | "or" as word, left, right):
            return f"({write(left)} {word} {write(right)})"
        case ("not", inner):
            return f"not ({write(inner)})"
    raise AssertionError(tree)


def like(pattern: str, text: str) -> bool:
    """By trying everything."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in ("_", text[0]) and like(pattern[1:], text[1:])


def number(text: str | None) -> Fraction | None:
    if text is None or not text or text.strip("-.e0123456789"):
        return None
    return Fraction(text)


def is_whole(tree: Tree, values: dict[str, str]) -> bool:
    match tree:
        case ("name", name):
            return values[name].lstrip("-").isdigit()
        case ("number", text):
            return bool(text.isdigit())
        case ("sum", left, _, right):
            return is_whole(left, values) and is_whole(right, values)
        case _:
            return is_whole(tree[1], values)


def calculate(tree: Tree, values: dict[str, str]) -> Fraction | None:
    match tree:
        case ("name", name):
            return number(values.get(name))
        case ("number", text):
            return Fraction(text)
        case ("minus", inner):
            value = calculate(inner, values)
            return None if value is None else -value
        case ("sum", left, sign, right):
            a, b = calculate(left, values), calculate(right, values)
            if a is None or b is None or (sign == "/" and b == 0):
                return None
            if sign == "/":
                return Fraction(math.trunc(a / b)) if is_whole(tree, values) else a / b
            return a + b if sign == "+" else a - b if sign == "-" else a * b
    raise AssertionError(tree)


def order(left: Fraction | None, sign: str, right: Fraction | None) -> bool | None:
    if left is None or right is None:
        return None
    return {
        "=": left == right,
        "<>": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[sign]


def both(left: bool | None, right: bool | None) -> bool | None:
    return False if left is False or right is False else None if left is None or right is None else True


def opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def judge(tree: Tree, values: dict[str, str]) -> bool | None:
    match tree:
        case ("compare", left, sign, right):
            return order(calculate(left, values), sign, calculate(right, values))
        case ("text=", (_, name), sign, (_, text)):
            value = values.get(name)
            return None if value is None else (value == text) is (sign == "=")
        case ("null", ("name", name)):
            return name not in values
        case ("null", inner):
            return calculate(inner, values) is None
        case ("between", value, low, high):
            at = calculate(value, values)
            return both(order(at, ">=", calculate(low, values)), order(at, "<=", calculate(high, values)))
        case ("in", name, members):
            found: bool | None = False
            for kind, text in members:
                each = judge(("compare" if kind == "number" else "text=", name, "=", (kind, text)), values)
                found = opposite(both(opposite(found), opposite(each)))
            return found
        case ("like", (_, name), pattern):
            return like(pattern, values[name]) if name in values else None
        case ("flag", (_, name)):
            return {"true": True, "false": False}.get(values.get(name, ""))
        case ("and", left, right):
            return both(judge(left, values), judge(right, values))
        case ("or", left, right):
            return opposite(both(opposite(judge(left, values)), opposite(judge(right, values))))
        case ("not", inner):
            return opposite(judge(inner, values))
    raise AssertionError(tree)


@settings(max_examples=400, deadline=None)
@given(conditions, headers)
def test_every_condition_is_as_the_model_has_it(tree: Tree, values: dict[str, str]) -> None:
    assert run(write(tree), values) is judge(tree, values)


@settings(deadline=None)
@given(conditions, conditions, headers)
def test_de_morgan(left: Tree, right: Tree, values: dict[str, str]) -> None:
    a, b = write(left), write(right)
    assert run(f"NOT ({a} AND {b})", values) is run(f"(NOT ({a})) OR NOT ({b})", values)


@settings(deadline=None)
@given(calculated, calculated, calculated, headers)
def test_between_is_two_comparisons(value: Tree, low: Tree, high: Tree, values: dict[str, str]) -> None:
    a, b, c = f"{write(value)} + 0", f"{write(low)} + 0", f"{write(high)} + 0"
    assert run(f"{a} BETWEEN {b} AND {c}", values) is run(f"{a} >= {b} AND {a} <= {c}", values)
    assert run(f"{a} NOT BETWEEN {b} AND {c}", values) is run(f"{a} < {b} OR {a} > {c}", values)


@settings(max_examples=400, deadline=None)
@given(st.text("ab%_", max_size=7), st.text("ab%_\n", max_size=8))
@example("%a%ab_b%", "aabab")
@example("ab%ba", "aba")
@example("%%_", "a")
def test_like_finds_what_trying_everything_finds(pattern: str, text: str) -> None:
    assert run(f"x LIKE '{pattern}'", {"x": text}) is like(pattern, text)


@given(st.text("ab%_!'", max_size=12))
def test_an_escaped_pattern_is_like_itself_alone(text: str) -> None:
    quoted = "".join("!" + each if each in "%_!" else each * (1 + (each == "'")) for each in text)
    selector = Selector.parse(f"x LIKE '{quoted}' ESCAPE '!'")
    assert selector.matches({"x": text})
    assert not selector.matches({"x": text + "a"}) and not selector.matches({"x": "b" + text})


WORDS = [
    *("AND", "OR", "not", "BETWEEN", "IN", "LIKE", "ESCAPE", "IS", "NULL", "TRUE", "a", "b-c", "JMSPriority"),
    *("=", "<>", "<=", "+", "-", "*", "/", "(", ")", ",", "1", "2.5", "0x1", "1e999", "'x'", "'%_'", "'", '"', "''"),
    "a = 1",
]
nearly = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40) | st.text(string.printable, max_size=40) | nearly, headers)
def test_any_text_is_a_selector_or_a_bad_value(text: str, values: dict[str, str]) -> None:
    try:
        selector = Selector.parse(text)
    except StompError as error:
        assert error.code is ErrorCode.BAD_VALUE
        assert error.message == "bad selector" and error.detail.startswith("character ")
    else:
        assert selector.matches(values) in (True, False)


@given(st.text(max_size=20) | st.from_regex(r"[+-]?[0-9_. ]*([eE][+-]?[0-9]*)?[0-9]*", fullmatch=True))
def test_any_header_value_is_a_number_or_null(value: str) -> None:
    assert run("x + 0 IS NULL", {"x": value}) is (run("x = x + 0", {"x": value}) is None)


# --- bounds


def test_length_is_exact() -> None:
    longest = "a = 1".ljust(MAX_CHARS)
    Selector.parse(longest)
    with pytest.raises(StompError, match="bad selector") as caught:
        Selector.parse(longest + " ")
    assert caught.value.detail == f"it has {MAX_CHARS + 1} characters, the limit is {MAX_CHARS}"
    assert caught.value.code is ErrorCode.BAD_VALUE


def test_depth_is_exact() -> None:
    Selector.parse("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)
    with pytest.raises(StompError) as caught:
        Selector.parse("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1))
    assert caught.value.code is ErrorCode.BAD_VALUE
    assert f"character {MAX_DEPTH + 1}: found '('" in caught.value.detail
    # One after the other they are not deep.
    Selector.parse(" AND ".join(["(a)"] * (MAX_DEPTH + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_CHARS,
        "NOT " * 1023 + "a",
        "-" * 4000 + "a = 1",
        "+".join(["1"] * 2000) + " = a",
        "a = " + "*".join(["1"] * 2000),
        " OR ".join(["a"] * 800),
        " AND ".join(["a"] * 800),
        "a IN (" + ",".join(["1"] * 2000) + ")",
        "NOT (" * 200,
        "a = -(" * 200,
        "((((a = 1) AND b) = c) OR NOT (- (- (1 + (2 * (3 - a)))) = 1)) = TRUE",
        "NOT(-(1+1*(" * 8 + "a",
    ],
)
def test_length_and_depth_leave_the_stack_alone(text: str) -> None:
    before = sys.getrecursionlimit()
    depth = len(inspect.stack(0))
    sys.setrecursionlimit(depth + 40 + 10 * MAX_DEPTH)
    try:
        Selector.parse(text).matches({"a": "1"})
    except StompError as error:
        assert error.code is ErrorCode.BAD_VALUE
    finally:
        sys.setrecursionlimit(before)


def test_patterns_with_both_wildcards_are_few_and_short() -> None:
    Selector.parse(" OR ".join(["a LIKE '_%'"] * MAX_MIXED_PATTERNS))
    with pytest.raises(StompError) as caught:
        Selector.parse(" OR ".join(["a LIKE '_%'"] * (MAX_MIXED_PATTERNS + 1)))
    assert "expected at most 8 patterns that hold both % and _" in caught.value.detail
    Selector.parse("a LIKE '%" + "_" * (MAX_MIXED_CHARS - 1) + "'")
    with pytest.raises(StompError) as caught:
        Selector.parse("a LIKE '%" + "_" * MAX_MIXED_CHARS + "'")
    assert f"expected at most {MAX_MIXED_CHARS} characters" in caught.value.detail
    Selector.parse("a LIKE '" + "%a" * 2000 + "'")


@pytest.mark.parametrize(
    "pattern",
    [
        "%" * 2000 + "b",
        "%a" * 1500 + "%b",
        "%" + "aa_" * 80 + "%b",
        "%a_%" * 60 + "b",
        "%" + "a" * 2000 + "b%",
        "_" * 2000 + "b",
    ],
)
def test_no_pattern_takes_long(pattern: str) -> None:
    selector = Selector.parse(f"x LIKE '{pattern}'")
    start = time.thread_time()
    assert not selector.matches({"x": "a" * (16 << 10)})
    # A few milliseconds; what goes back and forth takes minutes at the least.
    assert time.thread_time() - start < 1


def test_numbers_cannot_be_made_to_grow() -> None:
    selector = Selector.parse("*".join(["x"] * 2000) + " > 0")
    start = time.thread_time()
    assert not selector.matches({"x": "9" * 18})
    assert time.thread_time() - start < 1


def test_equal_texts_are_one_selector_while_it_is_held() -> None:
    text = "held = 'for a while'"
    first = Selector.parse(text)
    assert Selector.parse("".join(text)) is first
    del first
    gc.collect()
    assert text not in _live
