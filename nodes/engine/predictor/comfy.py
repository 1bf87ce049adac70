"""The noise predictor over ComfyUI's MODEL, CLIP and VAE.

Latents here are what ComfyUI has inside its samplers (`process_latent_in`). ComfyUI's network functions take
x / alpha with sigma / alpha for networks trained on noise or velocity, x itself with sigma for rectified flow, and
give the clean latent in both cases; the conversions are in `schedule.py` and `comfy_schedule.py` and nowhere else.
Calls go through `calc_cond_batch`, so that LoRAs, injections, wrappers, ControlNet and patches on the MODEL act.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from ..families.base import COMFY
from ..families.registry import comfy_extras_of
from ..host.compiled import original_network
from ..host.context import pass_context
from ..host.gradients import ordinary
from ..host.memory import with_halving
from .base import NoisePredictor, Text
from .comfy_conditioning import conditioning_of, for_any_rows
from .comfy_inpainting import inpaints, with_inpainting
from .comfy_models import AdditionalModels
from .comfy_schedule import comfy_latent, native_size_of, schedule_of
from .comfy_text import encode_prompts
from .inpainting import Inpainting
from .recogniser import ATTACHMENT
from .reference import with_reference
from .schedule import Prediction, Time, from_denoised

if TYPE_CHECKING:
    from ..adapters.gates import Gates
    from ..host.comfy import ComfyHost

# Where gates for one call stand in transformer_options; the experts of `adapters/comfy.py` read them.
GATES_KEY = "regionstyle_gates"


class ComfyPredictor(NoisePredictor):
    """A MODEL with its CLIP and VAE; any of them may be None where it is not used. Use it inside `loaded()`.

    Latents and images come out on the device ComfyUI computes on. One prompt may be a whole CONDITIONING with areas
    and ControlNets (`from_conditioning`), which are loaded with the model and cleaned up at the end of `loaded()`; a
    batch with ControlNets is never parted. Weight hooks are not supported, nor gradients through ControlNets.
    """

    host: ComfyHost
    on_host = COMFY
    _loads = 0  # how often a network of any predictor was loaded, and how often by then when this one's was
    _loaded_at = -1

    def __init__(self, model: Any, clip: Any, vae: Any, host: ComfyHost) -> None:
        """RegionStyleError for a model of a family whose conversions are not known."""
        self.clip, self.vae, self.host = clip, vae, host
        self.recogniser = None if clip is None else clip.patcher.get_attachment(ATTACHMENT)
        self._model = model
        self._depth, self._differentiated = 0, False
        self._additional = AdditionalModels()
        if model is not None:
            self._schedule, self.predicts = schedule_of(model)
            self.extras_read = comfy_extras_of(model.model)
            self.latent_channels = int(model.model.latent_format.latent_channels)
            self.native_size = native_size_of(model.model.model_config)
            self.inpaints = inpaints(model.model)
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
        return original_network(self.model.model.diffusion_model)  # type: ignore[no-any-return]

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
        self.check_latents(x)
        self.check_times(t, len(x))

        told, shown = self._told_to_inpaint(x), self._shown(x)

        def call(x: Tensor, t: Time, texts: list[Text]) -> list[Prediction]:
            own = None if shown is None else pass_context().own_rows(shown)
            return self._call(x, t, texts, gate, told and told.part(pass_context().batch_slice), own)

        with self.loaded():
            return self._in_parts(call, x, t, texts) if all(map(for_any_rows, texts)) else call(x, t, texts)

    def _call(
        self,
        x: Tensor,
        t: Time,
        texts: list[Text],
        gate: Gates | None,
        told: Inpainting | None,
        shown: Tensor | None,
    ) -> list[Prediction]:
        """All prompts in as few calls of the network as ComfyUI finds room for, or one by one where it was wrong."""
        from comfy.samplers import calc_cond_batch

        alpha, sigma = self.alpha_sigma(t)
        latent, level = comfy_latent(self._schedule, x.to(self.model.load_device), alpha, sigma)
        conds, options = self._prepared(latent, texts, gate, told, shown)
        model = self.model.model

        def run(at_once: int) -> list[Tensor]:
            if at_once == len(conds):
                return calc_cond_batch(model, conds, latent, level, options)
            alone = [[cond if i == index else None for i in range(len(conds))] for index, cond in enumerate(conds)]
            return [calc_cond_batch(model, each, latent, level, options)[i] for i, each in enumerate(alone)]

        clean = with_halving(run, len(conds), host=self.host, name="prompts")
        return [from_denoised(x, c.to(x.device), alpha, sigma) for c in clean]

    def _prepared(
        self, x: Tensor, texts: list[Text], gate: Gates | None, told: Inpainting | None, shown: Tensor | None
    ) -> tuple[list[Any], dict[str, Any]]:
        """What a sampler makes of conditionings and of the MODEL's options before it calls the network."""
        import comfy.model_patcher
        import comfy.sampler_helpers
        import comfy.samplers

        for text in texts:
            text.extras.check(self.extras_read)
        # By these names ComfyUI knows which ControlNets act on the other prompt too.
        named = {
            name: self._with_pictures(conditioning_of(text, len(x)), told, shown)
            for name, text in zip(("positive", "negative"), texts, strict=False)
        }
        conds = {name: comfy.sampler_helpers.convert_cond(cond) for name, cond in named.items()}
        if self._additional.add(conds, self.model, differentiated=self._differentiated):
            self._load()
        options = comfy.model_patcher.create_model_options_clone(self.model.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.model, conds, options)
        if gate is not None:
            options["transformer_options"][GATES_KEY] = self._accepted(gate)
        # Where gradients are wanted, what was encoded in inference mode is copied, or autograd refuses it.
        conds = conds if torch.is_inference_mode_enabled() else ordinary(conds)
        conds = comfy.samplers.process_conds(self.model.model, x, conds, x.device)
        return [conds[name] for name in named], options

    def _with_pictures(self, conditioning: list[Any], told: Inpainting | None, shown: Tensor | None) -> list[Any]:
        """A conditioning with all that the network is shown beside the words."""
        model = self.model.model
        return with_reference(with_inpainting(conditioning, told, model), shown, model)

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
        self._something_loaded()
        return self.model.model.process_latent_in(latents.to(self.host.device))

    def encode_sample(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Latents as the network sees them, drawn from the autoencoder's distribution.

        ComfyUI's autoencoder draws from torch's global state, which is seeded from `random` and put back.
        """
        vae = self._need(self.vae, "vae", "a VAE")
        regularization = getattr(vae.first_stage_model, "regularization", None)
        if regularization is None or not hasattr(regularization, "sample"):
            accepts = "an autoencoder with a distribution of latents"
            raise wrong_input("vae", type(vae.first_stage_model).__name__, accepts, "Encode without drawing a sample.")
        seed, before = int(torch.randint(2**62, (), generator=random)), regularization.sample
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            regularization.sample = True
            try:
                return self.encode(images)
            finally:
                regularization.sample = before

    def decode(self, latents: Tensor) -> Tensor:
        """Images in 0..1."""
        self.check_latents(latents)
        vae = self._need(self.vae, "vae", "a VAE")
        images = vae.decode(self.model.model.process_latent_out(latents))
        self._something_loaded()
        return images.movedim(-1, 1).to(self.host.device).clamp(0, 1)

    def encode_text(self, texts: list[str]) -> Text:
        """Prompts, with ComfyUI's weight syntax and embeddings; longer ones take several chunks of 77 tokens."""
        text = encode_prompts(self._need(self.clip, "clip", "a CLIP"), texts)
        self._something_loaded()
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
            elif self._loaded_at != ComfyPredictor._loads:
                self._load()
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._additional.leave()
                self.model.cleanup()

    def _load(self) -> None:
        """Load the model, its patches and injections, and whatever models they bring."""
        import comfy.model_management as management

        side = self.native_size // self.factor
        memory = self.model.model.memory_required([2, self.latent_channels, side, side]) + self._additional.memory
        models = [self.model, *self.model.get_nested_additional_models(), *self._additional.models]
        management.load_models_gpu(models, memory_required=memory)
        self._something_loaded()
        self._loaded_at = ComfyPredictor._loads

    def _something_loaded(self) -> None:
        """ComfyUI may have unloaded other networks for it: every predictor loads its own again before the next use."""
        ComfyPredictor._loads += 1

    @contextmanager
    def gradients(self, *, decode: bool = False) -> Iterator[None]:
        """A block in which `predict`, and if asked for `decode`, may be differentiated; clone the latents inside it."""
        before = self._model, self.vae, self._depth, self._differentiated
        vae = [self._need(self.vae, "vae", "a VAE").patcher] if decode else []
        with self.host.gradients(self.model, *vae) as whole:
            try:
                self._model, self._differentiated = whole[0], True
                self.vae = _with_patcher(self.vae, whole[1]) if decode else self.vae
                # A replacement under dynamic VRAM is a model of its own, whose run has not begun yet.
                self._depth = self._depth if whole[0] is before[0] else 0
                with self.loaded():
                    yield
            finally:
                self._model, self.vae, self._depth, self._differentiated = before

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """See `NoisePredictor.checkpointed`; blocks run again with experts and attention taps as they were."""
        from ..adapters.checkpointing import checkpointed
        from ..adapters.comfy import experts_as_now
        from ..families.registry import family_of

        blocks = family_of(self.network).comfy_blocks_of(self.network)
        with checkpointed(blocks, lambda: experts_as_now(self.model)):
            yield

    def _need(self, part: Any, name: str, what: str) -> Any:
        if part is None:
            raise wrong_input(name, "nothing", what, "Connect one.")
        return part


def _with_patcher(vae: Any, patcher: Any) -> Any:
    """A VAE that runs the network of another patcher."""
    result = copy(vae)
    result.patcher, result.first_stage_model = patcher, patcher.model
    return result
