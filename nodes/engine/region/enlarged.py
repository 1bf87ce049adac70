"""What a user is told of a result that was worked on smaller than it is shown."""

from __future__ import annotations

SMEAR = 1.5  # a result that is enlarged further than this is soft to the eye


def enlarged_note(times: float, worked: int, remedy: str, lost: str = "fine detail") -> str:
    """A line about a result that was worked on at `worked` pixels and enlarged too far; "" where it was not.

    lost: what it lacks for that.
    """
    if times <= SMEAR:
        return ""
    return f"drawn at {worked} pixels and enlarged {times:.1f} times: {lost} is lost. {remedy}"
