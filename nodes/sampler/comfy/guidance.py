"""Guidance by attention on a ComfyUI MODEL: attached to a clone, so that every sampler node is guided.

What is attached are wrappers; what belongs to one run stands in that run's own options (`transformer_options`), which
ComfyUI makes anew for each and drops at its end. So clones, other packs' wrappers and overrides stay as they are,
nothing is left behind, and a run that ends in an error or a cancel leaves the network as it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.attention.supervision import AttentionLoss, Supervision
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.families.base import BIAS, COMPOSITION, GRADIENT
from ...engine.host.comfy import ComfyHost
from ...engine.host.compiled import original_network
from ...engine.host.gradients import ordinary
from ...engine.host.messages import show_message
from ...engine.predictor.base import Text
from ...engine.predictor.comfy_text import encode_prompts
from ...engine.region.regions import Regions
from ..guidance import Recorder, StepRecord, bias_of, blended, check_form, descend, falling
from ..settings import GuidanceSettings
from ..targets import Targets, area_masks, check_shape, default_prompt, targets_of, words_of

KEY = "regionstyle.guidance"
# How far encoded prompts may differ to be the same one, as a share of their size: half precision rounds.
SAME_PROMPT = 1e-2


@dataclass(frozen=True, eq=False)
class Guidance:
    """What a MODEL is guided by; never changed. own: the prompts of single regions, for compositions.

    on_step(record) is called with every step's attention, in the sampler's thread.
    """

    text: Text
    regions: Regions
    targets: Targets
    settings: GuidanceSettings
    own: tuple[Text, ...] = ()
    on_step: Callable[[StepRecord], None] = lambda record: None


@dataclass(frozen=True)
class Guided:
    """model: the guided clone, or the MODEL itself where no region guides; positive: the prompt as a CONDITIONING."""

    model: Any
    positive: list[Any]
    notice: str
    warning: str


def guide_model(
    model: Any,
    clip: Any,
    prompt: str,
    regions: Regions,
    settings: GuidanceSettings,
    on_step: Callable[[StepRecord], None] = lambda record: None,
) -> Guided:
    """A clone of a MODEL that is guided wherever this prompt is sampled.

    RegionStyleError for a MODEL that has no such form (with the table of those that have) or is guided already, and for
    a phrase that the prompt does not have.
    """
    check_form(settings.form, original_network(model.model.diffusion_model))
    if model.get_attachment(KEY) is not None:
        remedy = "Give all regions to one node, or take the MODEL from before the other."
        raise wrong_input("model", "one that is guided already", "one that is not", remedy)
    text = encode_prompts(clip, [prompt.strip() or default_prompt(regions)])
    targets = targets_of(text, regions, settings.words)
    positive = text.native[0] if text.native else []
    if not targets.supervision(text, settings).phrases:
        return Guided(model, positive, targets.notice, f"{targets.unguided}\nnothing is guided")
    own: tuple[Text, ...] = ()
    if settings.form == COMPOSITION:
        prompts = dict.fromkeys(words_of(region) for region in regions)
        own = tuple(encode_prompts(clip, [words]) for words in prompts)
    guidance = Guidance(text, regions, targets, settings, own, on_step)
    return Guided(_attached(model, guidance), positive, targets.notice, targets.unguided)


def _attached(model: Any, guidance: Guidance) -> Any:
    from comfy.patcher_extension import WrappersMP

    patched = model.clone()
    patched.set_attachments(KEY, guidance)
    wrappers = _Wrappers(guidance)
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, wrappers.sample),
        (WrappersMP.PREDICT_NOISE, wrappers.predict),
        (WrappersMP.CALC_COND_BATCH, wrappers.prompts),
        (WrappersMP.APPLY_MODEL, wrappers.network),
    ):
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


@dataclass
class _Run:
    """One sampling run. inner: the network is called for a gradient or a region's own prompt, not by the sampler."""

    guider: Any
    sigmas: Tensor
    latent: tuple[int, ...]
    supervision: Supervision
    recorder: Recorder
    inner: bool = False
    seen: bool = False  # whether the guided prompt has run
    _repeated: dict[int, Supervision] = field(default_factory=dict)

    def of_rows(self, repeat: int) -> Supervision:
        """What is supervised in a call that holds the latents so many times, once per prompt."""
        if repeat not in self._repeated:
            self._repeated[repeat] = self.supervision if repeat == 1 else self.supervision.rows(repeat)
        return self._repeated[repeat]

    def share(self, sigma: float) -> float:
        """The share of the steps that are done at a noise level."""
        steps = len(self.sigmas) - 1
        return int((self.sigmas[:-1] - sigma).abs().argmin()) / steps if steps > 0 else 0.0


class _Wrappers:
    """ComfyUI's wrappers of one guidance; they hold nothing of a run."""

    def __init__(self, guidance: Guidance) -> None:
        self.guidance, self.settings = guidance, guidance.settings

    def sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A whole run."""
        guider = executor.class_obj
        check_latent(noise, kwargs)
        check_shape(self.guidance.regions, noise.shape)
        supervision = self._supervision(noise.shape)
        recorder = Recorder(supervision, on_record=self.guidance.on_step)
        run = _Run(guider, sigmas.detach().float().cpu(), tuple(noise.shape), supervision, recorder)
        guider.model_options.setdefault("transformer_options", {})[KEY] = run
        guider.conds.update(self._own_conds(guider.conds.get("positive") or []))
        result = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        if not run.seen:
            accepts = "the CONDITIONING that Attention Guidance gives, or one of the same words"
            remedy = "Connect its positive output to the sampler, or type the same prompt in both."
            raise wrong_input("positive", "another prompt than the guided one", accepts, remedy)
        return result

    def predict(self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Any:
        """One noise level: the gradient form moves the sampler's latent itself."""
        options = {} if model_options is None else model_options
        run = _run_of(options)
        weight = falling(run.share(float(timestep.flatten()[0])), self.settings.end)
        if self.settings.form == GRADIENT and weight:
            x.copy_(self._descended(run, x, timestep, options, weight))
        return executor(x, timestep, options, seed)

    def prompts(
        self, executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> Any:
        """All prompts at one noise level: the composition form blends what regions' own prompts give."""
        results = executor(model, conds, x, timestep, options)
        run = _run_of(options)
        weight = falling(run.share(float(timestep.flatten()[0])), self.settings.end)
        if self.settings.form != COMPOSITION or run.inner or not weight:
            return results
        parts = []
        with _inside(run):
            for number in range(len(self.guidance.own)):
                ComfyHost().check()
                parts.append(executor(model, [run.guider.conds[f"{KEY}.{number}"]], x, timestep, options)[0])
        masks = area_masks(self.guidance.regions, (x.shape[-2], x.shape[-1]))
        return [blended(results[0], parts, masks), *results[1:]]

    def network(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        """One call of the network: the bias, and what the words' attention looks like."""
        options = transformer_options or {}
        run = _run_of({"transformer_options": options})
        call = lambda: executor(x, t, c_concat, c_crossattn, control, options, **kwargs)  # noqa: E731
        rows = self._guided_rows(x, c_crossattn, options)
        if run.inner or not bool(rows.any()):
            return call()
        run.seen = True
        if tuple(x.shape[-2:]) != tuple(run.latent[-2:]):
            got = f"a part of {x.shape[-1]}x{x.shape[-2]}"
            remedy = "Guidance cannot be combined with conditioning areas or tiled sampling: remove those."
            raise wrong_input("latent", got, "the whole latent", remedy)
        network = original_network(executor.class_obj.diffusion_model)
        return self._watched(run, network, rows, float(t.flatten()[0]), options, call)

    def _watched(
        self,
        run: _Run,
        network: nn.Module,
        rows: Tensor,
        level: float,
        options: dict[str, Any],
        call: Callable[[], Any],
    ) -> Any:
        """A call whose attention is noted, with the bias where it is due."""
        family = check_form(self.settings.form, network)
        supervision = run.of_rows(len(rows) // run.latent[0])
        sigma = float(options["sigmas"].flatten()[0]) if options.get("sigmas") is not None else level
        share = run.share(sigma)
        weight = falling(share, self.settings.end)
        if self.settings.form != BIAS or not weight:
            with _repeated(supervision, network, run.recorder.layers) as tap:
                result = call()
        else:
            bias = bias_of(network, supervision, self.settings.bias * weight, rows=rows)
            with bias, _repeated(supervision, network, run.recorder.layers, bias) as tap:
                result = call()
            if not bias.acted:
                raise RegionStyleError(
                    "model: none of its attentions over words could be guided, expected ComfyUI's own. Another pack "
                    "replaced them (IP-Adapter, for one): attach it to another MODEL, or use the composition form."
                )
        first = int(rows.int().argmax())
        own = {path: seen[first : first + run.latent[0]] for path, seen in tap.maps.items()}
        run.recorder.add(share, own, family, (run.latent[-2], run.latent[-1]))
        return result

    def _descended(self, run: _Run, x: Tensor, timestep: Tensor, options: dict[str, Any], weight: float) -> Tensor:
        """The latent after its gradient steps, from passes of the guided prompt alone."""
        from comfy.samplers import calc_cond_batch

        host, family = ComfyHost(), check_form(GRADIENT, original_network(run.guider.inner_model.diffusion_model))
        conds = [cond for cond in run.guider.conds.get("positive") or [] if self._is_ours(_states(cond))]
        if any("control" in cond for cond in conds):
            remedy = "Use the bias or the composition form with it."
            raise wrong_input("positive", "a ControlNet, through which no gradient goes", "none", remedy)
        if not conds:
            return x  # the run ends in an error that says so
        with host.gradients(run.guider.model_patcher) as (patcher,), _inside(run):
            ours, level = [_ordinary_cond(cond) for cond in conds[:1]], timestep.clone()
            network = original_network(patcher.model.diffusion_model)

            def loss_at(latent: Tensor) -> AttentionLoss:
                with _repeated(run.supervision, network, run.recorder.layers) as tap:
                    calc_cond_batch(patcher.model, [ours], latent, level, options)
                return run.supervision.loss(run.recorder.useful(tap.maps, family, (x.shape[-2], x.shape[-1])))

            return descend(ordinary(x), loss_at, self.settings.step * weight, self.settings, host.check)

    def _supervision(self, latent: Sequence[int]) -> Supervision:
        """The losses of a batch: one picture's words for all latents, or each its own."""
        made = self.guidance.targets.supervision(self.guidance.text, self.settings, (latent[-2], latent[-1]))
        return made if len(made.samples) == latent[0] else made.rows(latent[0])

    def _own_conds(self, positive: list[Any]) -> dict[str, list[Any]]:
        """Prompts of regions as conditionings, with all that the sampler's own prompt brings beside its words."""
        found = {}
        for number, text in enumerate(self.guidance.own):
            states, extra = text.native[0][0]  # type: ignore[index]
            first: dict[str, Any] = next((cond for cond in positive if self._is_ours(_states(cond))), {})
            beside = {name: value for name, value in extra.items() if isinstance(value, Tensor)}
            cond = {**first, **beside, "cross_attn": states, "model_conds": {}, "uuid": uuid.uuid4()}
            found[f"{KEY}.{number}"] = [cond]
        return found

    def _guided_rows(self, x: Tensor, states: Any, options: dict[str, Any]) -> Tensor:
        """Which rows of a running batch read the guided prompt, bool `[B]` on the CPU."""
        chunks = options.get("cond_or_uncond") or [0]
        size = len(x) // len(chunks)
        ours = [
            index == 0 and isinstance(states, Tensor) and self._is_ours(states[number * size : number * size + 1])
            for number, index in enumerate(chunks)
        ]
        return torch.tensor(ours).repeat_interleave(size)

    def _is_ours(self, states: Any) -> bool:
        """Whether encoded words `[1,M,D]`, maybe repeated along the tokens, are those of the guided prompt."""
        wanted = self.guidance.text.states[:1]
        if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[1] % wanted.shape[1]:
            return False
        if states.shape[2] != wanted.shape[2]:
            return False
        given = states[:1, : wanted.shape[1]].detach().float().cpu()
        wanted = wanted.detach().float().cpu()
        return float((given - wanted).abs().max()) <= SAME_PROMPT * float(wanted.abs().max())


def show_losses(record: StepRecord) -> None:
    """Draw a step's losses on the node that is sampling."""
    show_message(f"attention at {record.share:.0%} of the steps: focus {record.focus:.3f}, cover {record.cover:.3f}")


def check_latent(noise: Tensor, options: dict[str, Any]) -> None:
    """RegionStyleError for latents that are no pictures `[B,C,h,w]`."""
    shapes = options.get("latent_shapes")
    if getattr(noise, "is_nested", False) or noise.ndim != 4 or (shapes is not None and len(shapes) > 1):
        got = f"shape {list(noise.shape)}" if not getattr(noise, "is_nested", False) else "several latents in one"
        raise wrong_input("latent", got, "latents of pictures [B,C,h,w]", "Videos and sound cannot be guided.")


def _run_of(options: dict[str, Any]) -> _Run:
    run = options.get("transformer_options", {}).get(KEY)
    if run is None:
        raise RegionStyleError(
            "model: got one with attention guidance outside of a sampler, expected the MODEL from before Attention "
            "Guidance. Guidance acts in samplers: KSampler, SamplerCustomAdvanced and the like."
        )
    return run  # type: ignore[no-any-return]


class _inside:
    """Calls of the network that are not the sampler's own."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def __enter__(self) -> None:
        self.before, self.run.inner = self.run.inner, True

    def __exit__(self, *error: object) -> None:
        self.run.inner = self.before


def _repeated(supervision: Supervision, network: nn.Module, layers: list[str] | None, bias: Any = None) -> Any:
    """A tap that also fits a prompt which ComfyUI repeats because it runs beside a longer one."""
    return supervision.tap(network, layers, bias=bias, repeats=True)


def _states(cond: dict[str, Any]) -> Any:
    """The encoded words of a sampler's conditioning."""
    made = cond.get("model_conds", {}).get("c_crossattn")
    return cond.get("cross_attn") if made is None else made.cond


def _ordinary_cond(cond: dict[str, Any]) -> dict[str, Any]:
    """A conditioning whose tensors autograd accepts."""
    made = {name: copy(one) for name, one in cond.get("model_conds", {}).items()}
    for one in made.values():
        one.cond = ordinary(one.cond)
    return {**ordinary({k: v for k, v in cond.items() if k != "model_conds"}), "model_conds": made}
