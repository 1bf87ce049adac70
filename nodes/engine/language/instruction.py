"""What a sentence asks for: which thing, chosen how, gets which style."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("thing", "rest", "whole")
ORDERS = ("score", "left", "right", "top", "bottom", "center", "largest", "smallest")
RELATIONS = ("left of", "right of", "above", "below", "near", "on", "behind", "in front of")


@dataclass(frozen=True)
class Selector:
    """How the meant ones are chosen among everything a query finds.

    kind: a thing; "rest" (the complement of everything else that is named, and of `anchor`); "whole" (the picture).
    order: what the instances are sorted by, one of ORDERS or a corner such as "top left"; rank: the first one taken,
    1 is the best; count: how many, None for all; half: only those on the side that `order` names.
    relation and anchor: only those standing in one of RELATIONS to the thing the words `anchor` name.
    """

    kind: str = "thing"
    order: str = "score"
    rank: int = 1
    count: int | None = 1
    half: bool = False
    relation: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class EditRequest:
    """phrase: the thing as it was named, without its article; style: the style's name; query: the words to look for,
    which is the phrase without its position ("second cat from the left" -> "cat"); rule: which of them is meant."""

    phrase: str
    style: str
    query: str = ""
    selector: Selector = Selector()

    def __post_init__(self) -> None:
        if not self.query:
            object.__setattr__(self, "query", self.phrase)


@dataclass(frozen=True)
class Instruction:
    """requests in the order they were said; kept: things that were asked to stay as they are (style ""); unread: the
    parts of the sentence that were not understood."""

    requests: tuple[EditRequest, ...]
    kept: tuple[EditRequest, ...] = ()
    unread: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What was understood, in a line."""
        shown = [f"{_asked(request)}{_shown(request)}" for request in self.requests]
        return "; ".join([*shown, *(f"{request.phrase} stays" for request in self.kept)]) or "nothing"


def _asked(request: EditRequest) -> str:
    """A thing and its style; the thing alone where none was asked for."""
    return f"{request.phrase} -> {request.style}" if request.style else request.phrase


def _shown(request: EditRequest) -> str:
    selector = request.selector
    parts = [f"look for {request.query!r}" if request.query != request.phrase else ""]
    parts += ["all of them" if selector.count is None and selector.kind == "thing" else ""]
    parts += [f"{selector.count} of them" if selector.count not in (None, 1) else ""]
    parts += [f"number {selector.rank} by {selector.order}" if selector.order != "score" else ""]
    parts += [f"{selector.relation} {selector.anchor!r}" if selector.relation else ""]
    shown = ", ".join(part for part in parts if part)
    return f" ({shown})" if shown else ""
