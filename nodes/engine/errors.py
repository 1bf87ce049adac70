"""The two exceptions of the pack: wrong input, and cancelled. Their messages can be printed whatever they quote."""

import unicodedata

LONGEST_QUOTE = 300  # characters of what a message says it got
LONGEST_MESSAGE = 6000  # characters of a whole message, which may list what is accepted


class RegionStyleError(ValueError):
    """Something the user can put right. The message names the input, what it got, what is accepted and what to do.

    It is made printable and at most `LONGEST_MESSAGE` characters long, so that logging it and sending it to a browser
    never fails. ComfyUI shows a class with its module in front, which here is a long path, unless it is a built-in:
    so that the sentence is seen first, the module of these classes is called that.
    """

    __module__ = "builtins"

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls.__module__ = RegionStyleError.__module__

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(shortened(str(message), LONGEST_MESSAGE)))

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """A pickled one comes back as a RegionStyleError: no module holds its class under the name it has."""
        return _unpickled, (str(self),)


def _unpickled(message: str) -> RegionStyleError:
    return RegionStyleError(message)


class Cancelled(RuntimeError):
    """The user cancelled. Whoever raises it has restored what it changed; a preview shown so far stays."""


def is_cancel(error: BaseException) -> bool:
    """Whether an exception is a host's way to say that the user has cancelled: ComfyUI has its own."""
    return isinstance(error, Cancelled) or type(error).__name__ == "InterruptProcessingException"


def wrong_input(name: str, got: object, accepts: str, remedy: str) -> RegionStyleError:
    """The error for one input, in the wording that all of them share; the caller raises it."""
    return RegionStyleError(f"{name}: got {printable(shortened(str(got)))}, expected {accepts}. {remedy}")


def printable(text: str) -> str:
    r"""A text in which every character that cannot be printed or encoded is written out: half a surrogate pair as
    \ud83d, a control character as \x1b. Line ends and tabs stay; marks that reverse the direction of writing do not."""
    return "".join(_escaped(character) if _hidden(character) else character for character in text)


def _hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    # Cc control, Cs half a surrogate pair; of Cf (invisible marks) only those that reorder what stands around them
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _REORDERING


_REORDERING = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))


def _escaped(character: str) -> str:
    if ord(character) <= 0x7F:  # the encoding keeps these
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()


def shortened(text: str, longest: int = LONGEST_QUOTE) -> str:
    """A text of at most about `longest` characters: of a longer one the middle is left out, and how much that was."""
    if len(text) <= longest:
        return text
    head, tail = text[: longest * 2 // 3], text[len(text) - longest // 4 :]
    return f"{head} ... ({len(text) - len(head) - len(tail)} characters left out) ... {tail}"
