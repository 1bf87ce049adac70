"""Names of styles in one spelling: to compare them, and as names of files.

Grounding reads sentences with a spelling of its own (`key` in grounding/language/style_names.py). It differs on
purpose: there "style", "look" and articles are words that the grammar needs to see, and British spellings count as
American ones, because its list of known styles is written so; here they are whatever the expert's author typed.
"""

from __future__ import annotations

import re


def style_key(words: str) -> str:
    """One spelling for what means the same: lower case, no hyphens, no article, no final "style"."""
    words = " ".join(re.sub(r"[-_]", " ", words.lower()).split())
    return re.sub(r"^(?:an?|the) (?=\S)|(?<=\S) style$", "", words)


def style_slug(style: str) -> str:
    """A style's name as that of a file, without an ending: hyphens for spaces, otherwise as it is written."""
    return style.replace(" ", "-")
