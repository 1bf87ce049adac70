"""The noise predictor over ComfyUI's MODEL, CLIP and VAE.

Latents here are what ComfyUI has inside its samplers (`process_latent_in`). ComfyUI's network functions take
x / alpha with sigma / alpha for networks trained on noise or velocity, x itself with sigma for rectified flow, and
give the clean latent in both cases; the conversions are in `schedule.py` and `_to_comfy` and nowhere else.
Calls go through `calc_cond_batch`, so that LoRAs, injections, wrappers, ControlNet and patches on the MODEL act.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .comfy_conditioning import conditioning_of, extras_of
from .comfy_gradients import ordinary
from .comfy_text import encode_prompts
from .errors import wrong_input
from .predictor import NoisePredictor, Text
from .schedule import (
    TRAINED_STEPS,
    FlowSchedule,
    Prediction,
    Schedule,
    TableSchedule,
    Time,
    from_denoised,
    like,
)

if TYPE_CHECKING:
    from .comfy_host import ComfyHost
    from .gates import Gates

# Where gates for one call stand in transformer_options; the experts of `comfy_adapters.py` read them.
GATES_KEY = "regionstyle_gates"
SUPPORTED = "Supported: SD1.5, SD2 and SDXL (noise or velocity), SD3 and Flux (rectified flow)."
# ComfyUI's detection writes this size for every U-Net, so it says nothing.
UNKNOWN_SIZE = 32
NATIVE_SIZES = {"SD15": 512, "SD20": 512, "SD21UnclipL": 768, "SD21UnclipH": 768}


class ComfyPredictor(NoisePredictor):
    """A MODEL with its CLIP and VAE; any of them may be None where it is not used. Use it inside `loaded()`.

    Latents and images come out on the device ComfyUI computes on. One prompt may be a whole CONDITIONING with areas
    and ControlNets (`from_conditioning`); weight hooks are not supported.
    """

    host: ComfyHost

    def __init__(self, model: Any, clip: Any, vae: Any, host: ComfyHost) -> None:
        """RegionStyleError for a model of a family whose conversions are not known."""
        self.clip, self.vae, self.host = clip, vae, host
        self._model = model
        self._depth, self._unloaded = 0, False
        if model is not None:
            self._schedule, self.predicts = _schedule(model)
            self._extras = extras_of(model.model)
            self.latent_channels = int(model.model.latent_format.latent_channels)
            self.native_size = _native_size(model.model.model_config)
        elif vae is not None:
            self.latent_channels = int(vae.latent_channels)
        self.factor = int(vae.spacial_compression_encode()) if vae is not None else 8

    @property
    def model(self) -> Any:
        """The MODEL; inside `gradients()` the one that is fully loaded."""
        return self._need(self._model, "model", "a MODEL")

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """Where experts and attention taps attach."""
        return self.model.model.diffusion_model

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """From the model's own table (nodes may patch it), or 1 - s and s for rectified flow; see `schedule.py`.

        The shift of a flow model's schedule says where a sampler steps, not what a level means, and has no part here.
        """
        self._need(self._model, "model", "a MODEL")
        return self._schedule.alpha_sigma(t)

    def predict(self, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """One call of the network. Without a gate, attached experts follow their own nodes."""
        return self._predict(x, t, [text], gate)[0]

    def predict_pair(
        self, x: Tensor, t: Time, text: Text, negative: Text, gate: Gates | None = None
    ) -> tuple[Prediction, Prediction]:
        """Both prompts as ComfyUI runs them: one batched call where memory allows, two otherwise."""
        positive, other = self._predict(x, t, [text, negative], gate)
        return positive, other

    def _predict(self, x: Tensor, t: Time, texts: list[Text], gate: Gates | None) -> list[Prediction]:
        import comfy.samplers

        self.check_latents(x)
        alpha, sigma = self.alpha_sigma(t)
        with self.loaded():
            latent, level = _to_comfy(self._schedule, x.to(self.model.load_device), alpha, sigma)
            conds, options = self._prepared(latent, texts, gate)
            clean = comfy.samplers.calc_cond_batch(self.model.model, conds, latent, level, options)
        return [from_denoised(x, c.to(x.device), alpha, sigma) for c in clean]

    def _prepared(self, x: Tensor, texts: list[Text], gate: Gates | None) -> tuple[list[Any], dict[str, Any]]:
        """What a sampler makes of conditionings and of the MODEL's options before it calls the network."""
        import comfy.model_patcher
        import comfy.sampler_helpers
        import comfy.samplers

        for text in texts:
            text.extras.check(self._extras)
        named = {str(at): conditioning_of(text, len(x)) for at, text in enumerate(texts)}
        conds = {name: comfy.sampler_helpers.convert_cond(cond) for name, cond in named.items()}
        options = comfy.model_patcher.create_model_options_clone(self.model.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.model, conds, options)
        if gate is not None:
            options["transformer_options"][GATES_KEY] = self._accepted(gate)
        # Where gradients are wanted, what was encoded in inference mode is copied, or autograd refuses it.
        conds = conds if torch.is_inference_mode_enabled() else ordinary(conds)
        conds = comfy.samplers.process_conds(self.model.model, x, conds, x.device)
        return [conds[name] for name in named], options

    def _accepted(self, gate: Gates) -> Gates:
        """The gate, if there is somebody to read it."""
        if not any("regionstyle" in str(key) for key in self.model.injections):
            names = ", ".join(gate.values) or "none"
            raise wrong_input("gate", f"gates for {names}", "no gate", "Attach experts to the MODEL first.")
        return gate

    def encode(self, images: Tensor) -> Tensor:
        """Latents as the network sees them, of the mode of the autoencoder's distribution."""
        self.check_images(images)
        vae = self._need(self.vae, "vae", "a VAE")
        latents = vae.encode(images.movedim(1, -1))
        self._unloaded = True
        return self.model.model.process_latent_in(latents.to(self.host.device))

    def decode(self, latents: Tensor) -> Tensor:
        """Images in 0..1."""
        self.check_latents(latents)
        vae = self._need(self.vae, "vae", "a VAE")
        images = vae.decode(self.model.model.process_latent_out(latents))
        self._unloaded = True
        return images.movedim(-1, 1).to(self.host.device).clamp(0, 1)

    def encode_text(self, texts: list[str]) -> Text:
        """Prompts, with ComfyUI's weight syntax and embeddings; longer ones take several chunks of 77 tokens."""
        text = encode_prompts(self._need(self.clip, "clip", "a CLIP"), texts)
        self._unloaded = True
        return text

    def from_conditioning(self, conditioning: list[Any]) -> Text:
        """A CONDITIONING made by another node, as one prompt. Its words are not known, so it has no valid tokens."""
        if not conditioning:
            raise wrong_input("conditioning", "an empty list", "a prompt", "Connect a CLIP Text Encode node.")
        states, extra = conditioning[0][0], conditioning[0][1]
        unknown = [[0] * states.shape[1]], [[""] * states.shape[1]]
        valid = torch.zeros(1, states.shape[1], dtype=torch.bool)
        return Text(states, extra.get("pooled_output"), *unknown, valid, [conditioning])

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """The model loaded and run-time state of its patches begun; ended in any case. Blocks may be nested."""
        self._depth += 1
        try:
            if self._depth == 1:
                self._load()
                self.model.pre_run()
            elif self._unloaded:
                self._load()
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.model.cleanup()

    def _load(self) -> None:
        """Load the model, its patches and injections, and whatever models they bring."""
        import comfy.model_management as management

        side = self.native_size // self.factor
        memory = self.model.model.memory_required([2, self.latent_channels, side, side])
        management.load_models_gpu([self.model, *self.model.get_nested_additional_models()], memory_required=memory)
        self._unloaded = False

    @contextmanager
    def gradients(self, *, decode: bool = False) -> Iterator[None]:
        """A block in which `predict`, and if asked for `decode`, may be differentiated; clone the latents inside it."""
        before = self._model, self.vae, self._depth
        vae = [self._need(self.vae, "vae", "a VAE").patcher] if decode else []
        with self.host.gradients(self.model, *vae) as whole:
            try:
                self._model = whole[0]
                self.vae = _with_patcher(self.vae, whole[1]) if decode else self.vae
                # A replacement under dynamic VRAM is a model of its own, whose run has not begun yet.
                self._depth = self._depth if whole[0] is before[0] else 0
                with self.loaded():
                    yield
            finally:
                self._model, self.vae, self._depth = before

    def _need(self, part: Any, name: str, what: str) -> Any:
        if part is None:
            raise wrong_input(name, "nothing", what, "Connect one.")
        return part


def _to_comfy(schedule: Schedule, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """ComfyUI's latent and noise level `[B]` of x, both float32."""
    latent, level = x.float(), sigma
    if not isinstance(schedule, FlowSchedule):
        latent, level = latent / like(alpha, x).float(), sigma / alpha
    return latent, level.to(x.device, torch.float32).expand(len(x)).clone()


def _schedule(model: Any) -> tuple[Schedule, str]:
    """The noise levels of a MODEL and what it predicts, told by its sampling object (other nodes may have replaced it).

    Compared by the functions themselves: a class that overrides one of them is another family.
    """
    import comfy.model_sampling as sampling

    found = model.get_model_object("model_sampling")
    kind = type(found)
    level, denoised = getattr(kind, "sigma", None), getattr(kind, "calculate_denoised", None)
    noise_or_v = denoised in (sampling.EPS.calculate_denoised, sampling.V_PREDICTION.calculate_denoised)
    if noise_or_v and level is sampling.ModelSamplingDiscrete.sigma and len(found.sigmas) == TRAINED_STEPS:
        with torch.inference_mode(False):
            table = TableSchedule(found.sigmas.detach().cpu().double().log())
        return table, "v" if denoised is sampling.V_PREDICTION.calculate_denoised else "eps"
    flow = level in (sampling.ModelSamplingDiscreteFlow.sigma, sampling.ModelSamplingFlux.sigma)
    if flow and denoised is sampling.CONST.calculate_denoised and getattr(found, "noise_scale", 1) == 1:
        return FlowSchedule(), "flow"
    bases = ", ".join(base.__name__ for base in kind.__mro__[1:3])
    raise wrong_input("model", f"{type(model.model).__name__} sampled as {bases}", "a known family", SUPPORTED)


def _with_patcher(vae: Any, patcher: Any) -> Any:
    """A VAE that runs the network of another patcher."""
    result = copy(vae)
    result.patcher, result.first_stage_model = patcher, patcher.model
    return result


def _native_size(config: Any) -> int:
    """The side in pixels that a model was trained at."""
    size = config.unet_config.get("image_size", UNKNOWN_SIZE)
    if size != UNKNOWN_SIZE:
        return 8 * int(size)
    return next((NATIVE_SIZES[c.__name__] for c in type(config).__mro__ if c.__name__ in NATIVE_SIZES), 1024)
