"""The two exceptions of the pack: wrong input, and cancelled."""


class RegionStyleError(ValueError):
    """Something the user can put right. The message names the input, what it got, what is accepted and what to do."""


class Cancelled(RuntimeError):
    """The user cancelled. Whoever raises it has restored what it changed; a preview shown so far stays."""


def wrong_input(name: str, got: object, accepts: str, remedy: str) -> RegionStyleError:
    """The error for one input, in the wording that all of them share; the caller raises it."""
    return RegionStyleError(f"{name}: got {got}, expected {accepts}. {remedy}")
