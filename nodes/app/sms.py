"""How SMS paints from the command line and the Python API: its settings by the names users call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.errors import wrong_input
from ..engine.settings.checks import checked
from ..engine.settings.setting import Setting, settings_by_name
from ..sms.settings import Framing, SmsSettings, StyleStrength

KINDS = (StyleStrength, SmsSettings, Framing)
# What suits the tiny world where nothing else is chosen: its experts need no guidance, and from 100 iterations on every
# one of the measured pictures is read as its style (RESULTS, ablations).
TINY_USUAL: dict[str, Any] = {"iterations": 100, "guidance": 1.0, "strength": 1.0}
SHARED = ("seed", "detail")  # every method has them: they are no settings of SMS alone


@dataclass(frozen=True)
class SmsChoice:
    """strength: how strongly the style's expert acts; settings: of the optimisation; framing: of a region's crop."""

    strength: float = StyleStrength.strength
    settings: SmsSettings = field(default_factory=SmsSettings)
    framing: Framing = field(default_factory=Framing)


def sms_settings() -> dict[str, Setting]:
    """The settings that only SMS has, by the names users call them."""
    found = {name: one for kind in KINDS for name, one in settings_by_name(kind).items()}
    return {name: one for name, one in found.items() if name not in SHARED}


def usual_sms(given: Mapping[str, Any], tiny: bool) -> SmsChoice:
    """The settings that were given, by the names users call them; of the others what suits the tiny world, or the
    published ones. RegionStyleError for a name or a value that is none."""
    known = sms_settings()
    for name in given:
        if name not in known:
            raise wrong_input(str(name), "it", f"one of: {', '.join(known)}", "Leave it out, or correct its name.")
    values = {**(TINY_USUAL if tiny else {}), **given}

    def of(kind: type) -> dict[str, Any]:
        return checked(kind, **{name: value for name, value in values.items() if name in settings_by_name(kind)})

    strength = StyleStrength(**of(StyleStrength)).strength
    return SmsChoice(strength, SmsSettings(**of(SmsSettings)), Framing(**of(Framing)))
