"""A node that differentiates a MODEL through this repository's predictor and compares with finite differences."""

import importlib
import json
import sys

import torch

SHAPES = {"SD3": (4096, 2048), "Flux": (4096, 768)}  # width of text and of pooled text, by ComfyUI's class


def engine(name):
    """A module of the pack under test, which ComfyUI imported under its folder's path."""
    root = next(name for name in sys.modules if name.endswith("ComfyUI-RegionStyle"))
    return importlib.import_module(f"{root}.nodes.engine.{name}")


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ProbeGradients:
    """Gives, as JSON text: whether ComfyUI streams the MODEL, and per loss the gradient along a direction with the
    finite difference there; afterwards whether a plain prediction is what it was."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "probe"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def run(self, model):
        predictor = engine("predictor.comfy").ComfyPredictor(model, None, None, engine("host.comfy").ComfyHost())
        width, pooled = next(SHAPES[c.__name__] for c in type(model.model).__mro__ if c.__name__ in SHAPES)
        text = predictor.from_conditioning([[noise(1, 20, width, seed=1), {"pooled_output": noise(1, pooled, seed=2)}]])
        device = model.load_device
        x = noise(1, predictor.latent_channels, 8, 10, seed=0).to(device)
        before = predictor.predict(x, 0.5, text).eps
        with predictor.gradients():
            found = [self._slope(loss, x) for loss in self._losses(predictor, text, x)]
            whole = not getattr(predictor.model, "is_dynamic", bool)()
        after = predictor.predict(x, 0.5, text).eps
        streamed = getattr(model, "is_dynamic", bool)()
        result = {"device": device.type, "streamed": streamed, "whole": whole, "slopes": found,
                  "still": float((before - after).abs().max()), "size": float(before.abs().max())}  # fmt: skip
        return {"ui": {"text": [json.dumps(result)]}}

    def _losses(self, predictor, text, x):
        target = noise(*x.shape, seed=5).to(x.device).double()
        weight = noise(1, 2, 8, 10, seed=6).to(x.device).double()
        tap = engine("attention.tap").AttentionTap

        def of_prediction(latent):
            return (predictor.predict(latent, 0.5, text).denoised.double() * target).sum()

        def of_map(latent):
            with tap(predictor, [[1, 2], [5]]) as seen:
                predictor.predict(latent, 0.5, text)
            return (seen.mean((8, 10)).double() * weight).sum()

        return of_prediction, of_map

    def _slope(self, loss, x):
        """The gradient along a direction, and the finite difference of two steps without its curvature."""
        latent = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(latent), latent)
        way = gradient / gradient.norm() + noise(*x.shape, seed=9).to(x.device) / x.numel() ** 0.5
        with torch.no_grad():
            one, two = ((float(loss(latent + s * way)) - float(loss(latent - s * way))) / (2 * s) for s in (0.02, 0.04))
        return [float((gradient * way).sum()), (4 * one - two) / 3]
