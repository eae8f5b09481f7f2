"""Every statement of statements.toml has a test that names it, and so has every code of an ERROR."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from common.errors import ErrorCode

THIS = Path(__file__)
HERE = THIS.parent
STATEMENTS = tomllib.loads((HERE / "statements.toml").read_text(encoding="utf-8"))["statement"]


def named_statements() -> Iterator[tuple[int, str]]:
    """(number, file) for each argument of a `pytest.mark.statement` in this directory."""
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.statement":
                yield from ((ast.literal_eval(argument), path.name) for argument in node.args)


def test_numbers_are_complete_and_in_order() -> None:
    assert [statement["number"] for statement in STATEMENTS] == list(range(1, 116))


def test_each_statement_is_tested_or_says_why_not() -> None:
    named = {number for number, _ in named_statements()}
    excused = {statement["number"] for statement in STATEMENTS if "not_tested" in statement}
    assert {statement["number"] for statement in STATEMENTS} - named == excused


def test_each_named_statement_exists() -> None:
    known = {statement["number"] for statement in STATEMENTS}
    assert [(number, file) for number, file in named_statements() if number not in known] == []


def test_each_error_code_is_provoked() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py") if path != THIS)
    missing = {code.value for code in ErrorCode if f'"{code.value}"' not in sources}
    # No client can cause it: the harness fails every test whose broker logs it.
    assert missing == {"internal-error"}
