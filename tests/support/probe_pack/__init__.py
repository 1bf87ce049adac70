"""A custom node pack for tests: nodes that take their time, fail, differentiate a MODEL, or load a small FLUX."""

import time

import comfy.model_management
import comfy.utils

from . import memory  # noqa: F401  # adds its route
from .flux import ProbeFlux, ProbeFluxText
from .gradients import ProbeGradients


class ProbeWait:
    """Passes the image on after `steps` steps of 0.1 s each, with progress and a look at cancel in each."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "steps": ("INT", {"default": 2, "min": 1, "max": 10000})}}

    def run(self, image, steps):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.1)
            bar.update_absolute(step + 1, steps)
        return (image,)


class ProbeFail(ProbeWait):
    def run(self, image, steps):
        raise ValueError(f"steps: {steps} is not what this node wants.")


NODE_CLASS_MAPPINGS = {
    "ProbeWait": ProbeWait,
    "ProbeFail": ProbeFail,
    "ProbeGradients": ProbeGradients,
    "ProbeFlux": ProbeFlux,
    "ProbeFluxText": ProbeFluxText,
}
