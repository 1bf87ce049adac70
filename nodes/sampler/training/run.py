"""A whole training of an expert on encoded pairs, attached, trained and detached again."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor

from ...engine.adapters.weights import ExpertWeights
from ...engine.host.workers import ALONE, Workers
from ...engine.lora.expert import Expert
from ...engine.lora.init import init_lora
from ...engine.predictor.base import NoisePredictor
from ...engine.training.run import Preview, Shown, Trained, train_lora
from ...engine.training.state import StateFile
from .examples import PairExamples
from .expert import ExpertTrainer
from .held_out import Comparison
from .settings import ExpertTrainSettings


def new_expert(network: object, name: str, style: str, settings: ExpertTrainSettings) -> Expert:
    """An expert as the published script begins: down normal with a standard deviation of 1 / rank, up zero."""
    return init_lora(
        network,  # type: ignore[arg-type]
        name, style, rank=settings.rank, layers=settings.layers, seed=settings.seed, distribution="normal",
    )  # fmt: skip


def train_expert(
    predictor: NoisePredictor,
    weights: ExpertWeights,
    examples: PairExamples,
    settings: ExpertTrainSettings,
    state: StateFile,
    *,
    resume: bool = False,
    shown: Shown = lambda step, frame: None,
    workers: Workers = ALONE,
) -> Trained:
    """Train an attached expert, switched on and with gradients wanted, on encoded pairs; see `train_lora`."""
    first = examples.examples[0]
    texts = examples.texts
    preview = Preview(predictor, texts[first.prompt], texts[""], first.latent.shape[-1], settings.seed)

    comparison = Comparison(predictor, examples, settings)

    def draw() -> Tensor:
        """The first prompt from noise; of held-out pairs, where there are some, what is made of each."""
        if examples.held:
            return comparison.draw()
        with predictor.showing(first.source[None]) if settings.source == "shown" else nullcontext():
            return preview.draw()

    with predictor.gradients():
        trainer = ExpertTrainer(predictor, weights.parameters(), examples, settings, workers)
        return train_lora(trainer, weights, state, draw, resume=resume, shown=shown)


def notice_of(trained: Trained, examples: PairExamples) -> str:
    """What was done, how the loss on held-out pairs went, and how many things had masks that say nothing."""
    skipped = len(examples.skipped)
    said = f", {skipped} {'thing' if skipped == 1 else 'things'} not supervised" if skipped else ""
    measured = [loss for _, loss in trained.validation]
    held = f"; {len(examples.held)} held out, loss {measured[0]:.4g} -> {measured[-1]:.4g}" if measured else ""
    return f"{len(trained.losses)} steps on {len(examples.examples)} pairs{said}{held}"
