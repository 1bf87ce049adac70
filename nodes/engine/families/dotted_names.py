"""Module names written with underscores instead of dots, as kohya's LoRA files do, back in dots.

Some names contain underscores themselves, so this needs the list of all names that stand between two dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def name_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """What matches one of these names, or a number, with the underscore after it."""
    return re.compile("(" + "|".join(sorted(names, key=len, reverse=True)) + r"|\d+)(?:_|$)")


def dotted(name: str, pattern: re.Pattern[str]) -> str | None:
    """The name in dots; None when a part of it is not among the pattern's names."""
    words, position = [], 0
    while position < len(name):
        match = pattern.match(name, position)
        if match is None:
            return None
        words.append(match[1])
        position = match.end()
    return ".".join(words) or None
