"""Networks that a CONDITIONING brings along, as ComfyUI's samplers treat them: ControlNets, GLIGEN, image encoders."""

from __future__ import annotations

from typing import Any

from ..errors import wrong_input

Conds = dict[str, list[dict[str, Any]]]


class AdditionalModels:
    """Those that are in use beside one MODEL. models: their patchers; memory: bytes they need while they run."""

    def __init__(self) -> None:
        self.models: list[Any] = []
        self.memory = 0.0
        self._conds: list[dict[str, Any]] = []

    def add(self, conds: Conds, model: Any, *, differentiated: bool) -> bool:
        """Note what converted conditionings bring; whether there is something new to load.

        RegionStyleError where gradients are wanted: their weights would have to be prepared for that, too.
        """
        from comfy.sampler_helpers import get_additional_models

        models, memory = get_additional_models(conds, model.model_dtype())
        if models and differentiated:
            got, accepts = "a CONDITIONING with a ControlNet or GLIGEN", "words only where gradients are needed"
            raise wrong_input("text", got, accepts, "Take the Apply ControlNet node out of this prompt.")
        self._conds += [cond for entries in conds.values() for cond in entries if "control" in cond]
        new = [patcher for patcher in models if all(patcher is not known for known in self.models)]
        self.models, self.memory = self.models + new, max(self.memory, memory)
        return bool(new)

    def leave(self) -> None:
        """Forget them, and let them forget the run: hints at the latent's size, the schedule they ran under."""
        from comfy.sampler_helpers import cleanup_models

        models, conds = self.models, self._conds
        self.models, self.memory, self._conds = [], 0.0, []
        cleanup_models({"": conds}, models)
