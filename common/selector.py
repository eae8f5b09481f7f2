"""The `selector` header of SUBSCRIBE: a condition on a message's headers, the SQL-92 subset of JMS 2.0 section 3.8.

    selector  = any
    any       = all *( OR all )
    all       = not *( AND not )
    not       = *NOT predicate
    predicate = sum [ ( "=" | "<>" | "!=" | "<" | "<=" | ">" | ">=" ) sum
                    | [NOT] BETWEEN sum AND sum
                    | [NOT] IN "(" literal *( "," literal ) ")"
                    | [NOT] LIKE text [ESCAPE text]
                    | IS [NOT] NULL ]
    sum       = product *( ( "+" | "-" ) product )
    product   = signed *( ( "*" | "/" ) signed )
    signed    = *( "+" | "-" ) ( literal | name | "(" any ")" )

Keywords are case-insensitive, names are not. A header that is absent is NULL; NULL makes a comparison or calculation
NULL, NOT, AND and OR take it by three-valued logic, and only what is TRUE matches.

Where this differs from JMS, because STOMP's headers are all text:

* Beside a number, in a calculation, or where only numbers are ordered (`<`, BETWEEN), a header counts as a number if it
  is written as one in decimal (`-1`, `2.50`, `1e3`; at most 64 characters) and as NULL if not. Beside TRUE or FALSE, or
  as a condition of its own, `true` and `false` in any case count, and all else is NULL. Two headers are equal as text.
* IN takes numbers too. What can never hold (`1 = 'a'`, `name < 'a'`) is a mistake, as is a whole number with a leading
  zero, which Java reads as octal and SQL does not.
* Whole numbers are exact in 64 bits and doubles beyond; two whole numbers divide as in Java, without a remainder. What
  has no finite value, such as a division by zero, is NULL.
* A name may hold hyphens and dots, each without a blank around it and before a letter: `content-type` is a header,
  `a - b` and `a-1` are differences. In double quotes a name is any header, as it stands.
* Not in quotes, names of JMS mean the headers that STOMP has for them: JMSMessageID, JMSCorrelationID, JMSReplyTo and
  JMSDestination (`message-id`, `correlation-id` and so on), JMSType, JMSTimestamp, JMSExpiration (`expires`),
  JMSPriority (`priority`, 4 if absent), JMSDeliveryMode ('PERSISTENT' if `persistent` is true, else 'NON_PERSISTENT'),
  JMSXGroupID (that header, or `group-id`).
* The prefixes `convert_string_expressions:` (ActiveMQ) and `hyphenated_props:` (Artemis) are accepted and change
  nothing: what they ask for is always so.

Costs are bounded: 4,096 characters, parentheses 32 deep, at most 8 patterns of LIKE that hold both `%` and `_`, each of
at most 256 characters. A match takes time in proportion to the selector and to the headers it looks at, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

from common.errors import ErrorCode, StompError
from common.selector_grammar import parse

__all__ = ["MAX_CHARS", "Selector"]

MAX_CHARS = 4096
_MIXED_COST = 1024


class Selector:
    """A parsed selector; immutable, and the same object for equal texts for as long as anyone holds it.

    `cost` is what a match may take at the most, to be bounded by whoever holds many: the characters of the text, and
    1,024 more for each pattern of LIKE with both wildcards, which looks at every character of a header.
    """

    __slots__ = ("__weakref__", "_run", "cost", "text")

    def __init__(self, text: str, run: Callable[[Mapping[str, str]], bool | None], cost: int) -> None:
        self.text = text
        self.cost = cost
        self._run = run

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises StompError `bad-value`; its detail says where, what was found and what was expected."""
        known = _live.get(text)
        if known is not None:
            return known
        if len(text) > MAX_CHARS:
            raise StompError(
                ErrorCode.BAD_VALUE, "bad selector", f"it has {len(text)} characters, the limit is {MAX_CHARS}"
            )
        run, mixed = parse(text)
        selector = _live[text] = cls(text, run, len(text) + mixed * _MIXED_COST)
        return selector

    def matches(self, headers: Mapping[str, str]) -> bool:
        """Whether the condition is TRUE for `headers`; FALSE and NULL are not."""
        return self._run(headers) is True

    def __repr__(self) -> str:
        return f"Selector({self.text!r})"


_live: WeakValueDictionary[str, Selector] = WeakValueDictionary()
