"""LIKE of a selector: patterns in which `%` is any text and `_` any one character. Linear in the text, always."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MAX_MIXED_CHARS", "Pattern", "compile_pattern", "is_mixed", "matcher_of"]

MAX_MIXED_CHARS = 256
"""Length of a pattern with both wildcards: its matcher keeps a mask of so many bits for each of its characters."""

_ONE = 1
_MANY = 2
Pattern = list[str | int]
"""Characters, and the numbers of the two wildcards."""


def compile_pattern(text: str, escape: str | None) -> Pattern:
    """Raises ValueError, with what was expected, where `escape` stands before anything but `%`, `_` or itself."""
    pattern: Pattern = []
    characters = iter(text)
    for character in characters:
        if character == escape:
            character = next(characters, "")
            if not character or character not in ("%", "_", escape):
                raise ValueError(f"%, _ or {escape} after the escape character {escape}")
            pattern.append(character)
        elif character == "_":
            pattern.append(_ONE)
        elif character == "%":
            if pattern[-1:] != [_MANY]:
                pattern.append(_MANY)
        else:
            pattern.append(character)
    return pattern


def is_mixed(pattern: Pattern) -> bool:
    """Whether both wildcards are in `pattern`."""
    return _ONE in pattern and _MANY in pattern


def matcher_of(pattern: Pattern) -> Callable[[str], bool]:
    """Whether a whole text is as `pattern` has it."""
    if is_mixed(pattern):
        return _automaton(pattern)
    if _MANY in pattern:
        return _pieces(pattern)
    fixed = [(place, character) for place, character in enumerate(pattern) if character != _ONE]
    size = len(pattern)
    if len(fixed) == size:
        return "".join(map(str, pattern)).__eq__
    return lambda text: len(text) == size and all(text[place] == character for place, character in fixed)


def _pieces(pattern: Pattern) -> Callable[[str], bool]:
    first, *middle, last = _split(pattern)
    size = len(first) + len(last)

    def matches(text: str) -> bool:
        if len(text) < size or not text.startswith(first) or not text.endswith(last):
            return False
        start = len(first)
        end = len(text) - len(last)
        for piece in middle:
            # The leftmost place leaves the most room for the rest, so there is never a need to go back.
            start = text.find(piece, start, end)
            if start < 0:
                return False
            start += len(piece)
        return True

    return matches


def _split(pattern: Pattern) -> list[str]:
    pieces = [""]
    for each in pattern:
        if each == _MANY:
            pieces.append("")
        else:
            pieces[-1] += str(each)
    return pieces


def _automaton(pattern: Pattern) -> Callable[[str], bool]:
    # All places of the pattern that the text so far may have led to, as the bits of one number (Shift-And; Baeza-Yates
    # and Gonnet 1992): each character is one step, whatever the pattern.
    masks: dict[str, int] = {}
    anything = stays = place = 0
    for each in pattern:
        if each == _MANY:
            stays |= 1 << place
            continue
        if each == _ONE:
            anything |= 1 << place
        else:
            masks[str(each)] = masks.get(str(each), 0) | 1 << place
        place += 1
    for character in masks:
        masks[character] |= anything
    goal = 1 << place
    mask_of = masks.get

    def matches(text: str) -> bool:
        reached = 1
        for character in text:
            reached = (reached & mask_of(character, anything)) << 1 | reached & stays
            if not reached:
                return False
        return bool(reached & goal)

    return matches
