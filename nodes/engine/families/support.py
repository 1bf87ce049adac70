"""What is supported, in words: the sentences of errors and help texts and the rows of the pages' tables.

All of it is made from the families, so that it cannot be out of date.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from .base import BIAS, BOTH_HOSTS, COMFY_VERSIONS, COMPOSITION, GRADIENT, RANDOM, TRAINED, ModelFamily, joined
from .registry import families

EXPERTS, RESTYLING = "experts", "restyling"
_YES, _NO = "yes", "no, one clear error"
_TRIED_RANDOM = "the same code, tried on small random networks only"


def supported_versions(word: str = "and") -> str:
    """All published models that are supported, with this word before the last one."""
    return joined(_versions(families()), word)


def supported_predictions() -> str:
    """Which models the noise predictor takes, and what they predict."""
    groups = [(list(own), predicts) for predicts, own in groupby(families(), lambda family: family.predicts)]
    parts = [f"{joined(_versions(own))} ({' or '.join(predicts)})" for own, predicts in groups]
    return f"Supported: {', '.join(parts)}."


def supported_text_encoders() -> str:
    """Whose text encoders are known on ComfyUI."""
    return "CLIP of " + joined(_versions(family for family in families() if family.comfy_text))


def supported_folders() -> str:
    """Which classes of models are read from a folder in diffusers' layout."""
    return f"the {joined([family.name for family in families() if family.folder], 'or')} class"


def supported_lora_layers() -> str:
    """Whose layers are known in LoRA files."""
    return f"layers of {supported_versions('or')}"


def supported_isolation() -> str:
    """Where prompts can be kept apart."""
    on_both = [family.name for family in families() if family.isolates == BOTH_HOSTS]
    on_one = [f"{family.name} of {family.isolates[0]}" for family in families() if len(family.isolates) == 1]
    return "; ".join([f"{joined(on_both)} of both hosts", *on_one])


def supported_guidance() -> str:
    """Which models attention can guide in which way, as an error says it."""
    forms = [
        f"{form}: {joined(_versions(own))}"
        for form in (BIAS, GRADIENT, COMPOSITION)
        if (own := [family for family in families() if form in family.guides])
    ]
    return "; ".join([*forms, "background lock: every model with latents of pictures"])


def guidance_table() -> list[tuple[str, ...]]:
    """Rows of the help pages' table: models, then one cell for each of bias, gradient, composition, background lock."""
    groups = groupby(families(), lambda family: family.guides)
    rows = [
        (
            ", ".join(_versions(own)),
            *("yes" if form in guides else "no" for form in (BIAS, GRADIENT, COMPOSITION)),
            "yes",
        )
        for guides, own in ((guides, list(own)) for guides, own in groups)
    ]
    return [*rows, ("others", "no", "no", "no", "yes")]


def supported_table(feature: str) -> list[tuple[str, ...]]:
    """Rows of a help page's table: models, then one cell for each of `COMFY_VERSIONS`.

    feature: `EXPERTS` (attached to a model, in regions or not) or `RESTYLING` (whole edits, training, SMS).
    """
    if feature == EXPERTS:
        groups = [list(own) for _, own in groupby(families(), lambda family: family.diffusers_class)]
        return [
            (", ".join(_versions(own)), *[_YES if own[0].comfy_class else _NO] * len(COMFY_VERSIONS)) for own in groups
        ]
    trained = [
        (f"{family.name}-class {family.kind}", *[_YES] * len(COMFY_VERSIONS))
        for family in families()
        if family.tried == TRAINED
    ]
    random = ", ".join(family.versions[0] for family in families() if family.tried == RANDOM)
    return [*trained, (f"{random} classes", _TRIED_RANDOM, "no")]


def _versions(some: Iterable[ModelFamily]) -> list[str]:
    return [version for family in some for version in family.versions]
