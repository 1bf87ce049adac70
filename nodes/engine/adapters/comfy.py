"""Style experts on a ComfyUI MODEL.

A clone of the MODEL gets an injection, which wraps the network's layers while that clone is loaded, and a wrapper
around each call of the network, which switches the experts on for that call and off again. So whatever ComfyUI leaves
injected acts on nobody else, and neither the MODEL given nor the network's weights are changed. The experts' tensors
are models of their own, loaded together with the MODEL and counted by ComfyUI.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input
from ..families.token_grid import Size
from ..host.comfy import new_patcher
from ..host.compiled import original_network
from ..host.context import prompts_of_batch
from ..lora.expert import Expert
from ..predictor.comfy import GATES_KEY
from .active_gates import ActiveGates
from .comfy_windows import ContextWindow, running_window
from .gates import Gates
from .stack import ExpertStack
from .weights import ExpertWeights

KEY = "regionstyle.experts"


def attach_to_comfy(model: Any, experts: Sequence[Expert | ExpertWeights], gates: Gates) -> Any:
    """A clone of a MODEL with experts on it; chainable, later calls add experts and may set gates of earlier ones.

    Gates act in every run of that clone, for positive and negative prompts alike; tensors in them have one entry per
    latent of the batch, or one. `transformer_options["regionstyle_gates"]` overrides them for single calls.

    RegionStyleError for a model of another kind, experts that do not fit it, a name that is taken, and wrong gates.
    """
    before = _routing(model)
    weights = [e if isinstance(e, ExpertWeights) else ExpertWeights(e) for e in experts]
    together = [*(before.weights if before else []), *weights]
    routing = _Routing(together, gates.merged_over(before.gates if before else Gates()))
    # Says now, not while sampling, what does not fit.
    ExpertStack(original_network(model.model.diffusion_model), together)
    patched = model.clone()
    routing.install(patched)
    if weights:
        own = new_patcher(nn.ModuleList(weights), model.load_device)
        patched.set_additional_models(KEY, [*patched.get_additional_models_with_key(KEY), own])
    return patched


def attached_experts(model: Any) -> list[ExpertWeights]:
    """The experts on a MODEL, in order; their parameters are those it runs with."""
    routing = _routing(model)
    return list(routing.weights) if routing else []


def attached_gates(model: Any) -> Gates:
    """How the experts of a MODEL act when nothing overrides them; empty without experts."""
    routing = _routing(model)
    return routing.gates if routing else Gates()


def experts_as_now(model: Any) -> Callable[[], AbstractContextManager[None]]:
    """What puts the experts of a loaded MODEL back into their state of this moment; see `ExpertStack.as_now`."""
    routing = _routing(model)
    return nullcontext if routing is None else routing.as_now(original_network(model.model.diffusion_model))


def without_experts(model: Any) -> Any:
    """A clone of a MODEL whose experts are all off; the MODEL itself where it has none."""
    names = [weights.name for weights in attached_experts(model)]
    return attach_to_comfy(model, [], Gates(dict.fromkeys(names, 0.0))) if names else model


def _routing(model: Any) -> _Routing | None:
    return model.get_attachment(KEY)


class _Routing:
    """Experts and gates of one MODEL, shared by its clones, which cannot change it."""

    def __init__(self, weights: Sequence[ExpertWeights], gates: Gates) -> None:
        self.weights, self.gates = weights, gates
        self._names = [w.name for w in weights]
        self._active = ActiveGates(gates, self._names)
        self._latent: Size | None = None
        self._window: ContextWindow | None = None
        self._batch: int | None = None  # of the whole latent, while a sampler runs
        self._of_windows: dict[tuple[int, ...], ActiveGates] = {}
        # By network: ComfyUI may run a clone on another copy of the network (gradients, several devices).
        self._stacks: dict[nn.Module, tuple[ExpertStack, weakref.WeakSet[Any]]] = {}
        # Under dynamic VRAM, ComfyUI deletes a loaded MODEL without ejecting it.
        weakref.finalize(self, _detach_all, self._stacks).atexit = False

    def install(self, patcher: Any) -> None:
        """Replace what an earlier call put there."""
        from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP

        patcher.set_attachments(KEY, self)
        patcher.set_injections(KEY, [PatcherInjection(self._inject, self._eject)])
        patcher.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, KEY)
        patcher.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, self._begin)
        patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
        patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, self._begin)
        for kind, wrapper in (
            (WrappersMP.PREDICT_NOISE, self._see_batch),
            (WrappersMP.CALC_COND_BATCH, self._see_latent),
            (WrappersMP.APPLY_MODEL, self._apply),
        ):
            patcher.remove_wrappers_with_key(kind, KEY)
            patcher.add_wrapper_with_key(kind, KEY, wrapper)

    def _inject(self, patcher: Any) -> None:
        network = original_network(patcher.model.diffusion_model)
        if network not in self._stacks:
            self._stacks[network] = ExpertStack(network, self.weights), weakref.WeakSet()
        stack, holders = self._stacks[network]
        holders.add(patcher)
        stack.attach()

    def as_now(self, network: nn.Module) -> Callable[[], AbstractContextManager[None]]:
        """See `ExpertStack.as_now`."""
        stack, _ = self._stacks[network]
        return stack.as_now()

    def _eject(self, patcher: Any) -> None:
        """Detach when the last patcher that injected is ejected.

        A clone made of a loaded MODEL counts as injected for ComfyUI and is ejected when it is deleted, perhaps while
        its original is sampling.
        """
        network = original_network(patcher.model.diffusion_model)
        stack, holders = self._stacks.get(network, (None, weakref.WeakSet()))
        holders.discard(patcher)
        if stack is not None and not holders:
            del self._stacks[network]
            stack.detach()

    def _begin(self, patcher: Any) -> None:
        """A run begins or ends: forget masks resized and weights joined for the one before."""
        self._active, self._of_windows = ActiveGates(self.gates, self._names), {}
        for stack, _ in self._stacks.values():
            stack.forget_lengths()

    def _see_batch(self, executor: Callable[..., Any], x: Tensor, *args: Any) -> Any:
        """Remember during a sampler's step how many latents there are, before windows show a part of them."""
        before, self._batch = self._batch, len(x)
        try:
            return executor(x, *args)
        finally:
            self._batch = before

    def _see_latent(
        self, executor: Callable[..., Any], model: Any, conds: Any, x: Tensor, t: Tensor, options: dict[str, Any]
    ) -> Any:
        """Remember during a step the size of the whole latent, and which frames a context window shows."""
        before = self._latent, self._window
        self._latent, self._window = (x.shape[-2], x.shape[-1]), running_window(options, self._batch)
        try:
            return executor(model, conds, x, t, options)
        finally:
            self._latent, self._window = before

    def _apply(
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
        """One call of the network, with the experts on."""
        options = transformer_options or {}
        gates = self._gates_now(options.get(GATES_KEY))
        self._check(gates, x, options)
        positive = [index == 0 for index in options.get("cond_or_uncond") or [0]]
        with self._stack(executor).using(gates), prompts_of_batch(positive):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _gates_now(self, override: Gates | None) -> ActiveGates:
        """The gates that hold in this call: of the call itself or of the MODEL, for the frames that are shown."""
        window = self._window
        if window is None or window.spatial:
            return self._active if override is None else ActiveGates(override, self._names)
        if override is not None:
            return ActiveGates(window.of(override), self._names)
        if window.frames not in self._of_windows:
            self._of_windows[window.frames] = ActiveGates(window.of(self.gates), self._names)
        return self._of_windows[window.frames]

    def _stack(self, executor: Any) -> ExpertStack:
        # TorchCompileModel puts the compiled network in its place for the length of the call.
        stack, _ = self._stacks.get(original_network(executor.class_obj.diffusion_model), (None, None))
        if stack is None or not stack.attached:
            raise RegionStyleError("model: its experts are not loaded. Load it with load_models_gpu before each use.")
        return stack.attach()  # once more where another pack has put a layer's own forward back

    def _check(self, gates: ActiveGates, x: Tensor, options: dict[str, Any]) -> None:
        """RegionStyleError for gates that do not fit the batch, and masks where only part of the picture is run."""
        images = len(x) // len(options.get("cond_or_uncond") or [0])
        for name, size in gates.batch_sizes().items():
            if size not in (1, images):
                accepts = f"1 or {images}, the number of latents"
                raise wrong_input(f"gate of {name!r}", f"{size} entries", accepts, "Give one mask, or one per latent.")
        if gates.regions and self._window is not None and self._window.spatial:
            accepts = "context windows over the frames of a batch (dim 0)"
            raise wrong_input("context windows", "windows over parts of the picture", accepts, "Set dim to 0.")
        if gates.regions and self._latent not in (None, (x.shape[-2], x.shape[-1])):
            got = f"a part of {x.shape[-1]}x{x.shape[-2]}"
            remedy = "Experts with masks cannot be combined with conditioning areas or tiled sampling: remove those."
            raise wrong_input("latent", got, "the whole latent", remedy)


def _detach_all(stacks: dict[nn.Module, tuple[ExpertStack, Any]]) -> None:
    while stacks:
        _, (stack, _) = stacks.popitem()
        stack.detach()
