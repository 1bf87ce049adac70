"""Pairs held out of a training: which, the loss on them, what is drawn of them, and that a stopped training goes on."""

import hashlib
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from pair_files import write_pairs

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.training import run as loop
from regionstyle.nodes.engine.training.state import StateFile, facts_of, read_state
from regionstyle.nodes.sampler.training import held_out
from regionstyle.nodes.sampler.training.examples import encode_pairs
from regionstyle.nodes.sampler.training.expert import ExpertTrainer
from regionstyle.nodes.sampler.training.manifest import read_manifest
from regionstyle.nodes.sampler.training.run import new_expert, notice_of, train_expert
from regionstyle.nodes.sampler.training.settings import ExpertTrainSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor

SETTINGS = ExpertTrainSettings(
    steps=3, batch=2, rate=0.02, rank=2, warmup=0, preview_every=2, validation=2, focus=0, cover=0
)


@pytest.fixture(scope="module")
def tiny():
    return load_predictor(LocalHost("cpu"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return read_manifest(write_pairs(tmp_path_factory.mktemp("pairs"), 5))


@pytest.fixture(scope="module")
def examples(tiny, pairs):
    return encode_pairs(tiny, pairs, 64, SETTINGS)


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    monkeypatch.setattr(loop, "PREVIEW_STEPS", 1)


def ids(examples):
    return {one.id for one in examples}


def train(tiny, examples, path, settings=SETTINGS, *, host=None, **options):
    weights = ExpertWeights(new_expert(tiny.network, "x", "mosaic", settings)).requires_grad_(True)
    predictor, before = tiny, tiny.host
    predictor.host = host or before
    try:
        with ExpertStack(tiny.network, [weights]) as stack:
            stack.set(Gates({"x": 1.0}))
            state = StateFile(path, facts_of(settings, examples.mark))
            return train_expert(predictor, weights, examples, settings, state, **options)
    finally:
        predictor.host = before


def cancelling(after):
    """Cancels when so many steps are done."""
    seen = []
    return LocalHost(
        "cpu",
        on_progress=lambda label, at, total, preview: seen.append(at),
        cancelled=lambda: bool(seen) and seen[-1] >= after,
    )


def test_which_pairs_follows_from_them_and_the_seed(tiny, pairs, examples):
    assert (len(examples.examples), len(examples.held)) == (3, 2)
    assert ids(examples.examples).isdisjoint(ids(examples.held))
    turned = encode_pairs(tiny, pairs[::-1], 64, SETTINGS)
    assert [one.id for one in turned.held] == [one.id for one in examples.held]
    assert turned.mark != examples.mark
    everything = [*examples.examples, *examples.held]
    assert len({frozenset(ids(held_out.split(everything, 2, seed)[1])) for seed in range(12)}) > 3
    drawn = [examples.draw(3, number).example for number in range(12)]
    assert ids(drawn) == ids(examples.examples)
    assert not encode_pairs(tiny, pairs[:2], 64, replace(SETTINGS, validation=0)).held


def test_equal_pairs_are_on_one_side_together(examples):
    everything = [*examples.examples, *examples.examples, *examples.held, *examples.held]
    for seed in range(6):
        trained, held = held_out.split(everything, 2, seed)
        assert ids(trained).isdisjoint(ids(held))
        assert (len(trained), len(held)) == (6, 2)


def test_the_same_pictures_under_other_words_are_on_one_side_together(tiny, pairs):
    other = [replace(pair, prompt=f"{pair.prompt}, a picture") for pair in pairs[:3]]
    for seed in range(4):
        made = encode_pairs(tiny, [*pairs[:3], *other], 64, replace(SETTINGS, validation=1, seed=seed))
        assert (len(made.examples), len(made.held)) == (4, 2), "both captions of one picture"
        assert {one.picture for one in made.examples}.isdisjoint(one.picture for one in made.held)
    with pytest.raises(RegionStyleError, match="pictures are trained on as well"):
        encode_pairs(tiny, pairs[:2], 64, replace(SETTINGS, validation=0), other[:1])


def test_the_draw_and_the_mark_of_different_pictures_are_those_of_states_saved_before(examples):
    """By the pairs' own marks: a training that was stopped goes on with the same pairs held out."""
    everything = [*examples.examples, *examples.held]
    order = sorted(everything, key=lambda one: hashlib.sha256(f"{SETTINGS.seed} {one.id}".encode()).digest())
    assert examples.held == order[:2]
    marks = {
        hashlib.sha256("\n".join(one.id for one in some).encode()).hexdigest() for some in permutations(everything)
    }
    assert examples.mark in marks


def test_too_many_are_refused_before_anything_is_encoded(tiny, pairs):
    labels = []
    host, tiny.host = tiny.host, LocalHost("cpu", on_progress=lambda label, *rest: labels.append(label))
    try:
        with pytest.raises(RegionStyleError, match="validation: got 2 of 1 different pairs of pictures"):
            encode_pairs(tiny, [pairs[0], replace(pairs[0], prompt="a mosaic star, red")] * 2, 64, SETTINGS)
    finally:
        tiny.host = host
    assert not labels


def test_others_may_be_given(tiny, pairs):
    own = replace(SETTINGS, validation=0)
    made = encode_pairs(tiny, pairs[:2], 64, own, [pairs[2], pairs[2]])
    assert (len(made.examples), len(made.held)) == (2, 1)
    assert made.held[0].prompt in made.texts
    assert made.mark != encode_pairs(tiny, pairs[:2], 64, own).mark
    with pytest.raises(RegionStyleError, match="trained on as well"):
        encode_pairs(tiny, pairs[:2], 64, own, pairs[1:3])
    with pytest.raises(RegionStyleError, match="validation: got 2 beside 1 pairs"):
        encode_pairs(tiny, pairs[:2], 64, SETTINGS, pairs[2:3])


def test_one_pair_at_least_is_trained_on(tiny, pairs):
    with pytest.raises(RegionStyleError, match="validation: got 5 of 5 different pairs of pictures, expected 0 to 4"):
        encode_pairs(tiny, pairs, 64, replace(SETTINGS, validation=5))
    with pytest.raises(RegionStyleError, match="validation: got 2 of 2 different pairs"):
        encode_pairs(tiny, [pairs[0], pairs[1], pairs[0]], 64, SETTINGS)
    with pytest.raises(RegionStyleError, match="validation"):
        replace(SETTINGS, validation=-1)


def test_the_loss_is_measured_with_the_same_noise_each_time(tiny, examples):
    draws = examples.held_draws()
    assert [draw.timestep for draw in draws] == [*held_out.LEVELS] * 2
    assert len({float(draw.noise.sum()) for draw in draws}) == len(draws)
    weights = ExpertWeights(new_expert(tiny.network, "x", "mosaic", SETTINGS)).requires_grad_(True)
    with ExpertStack(tiny.network, [weights]) as stack:
        stack.set(Gates({"x": 1.0}))
        trainer = ExpertTrainer(tiny, weights.parameters(), examples, SETTINGS)
        trainer.validate()
        trainer.validate()  # once after a step
        torch.manual_seed(7)
        measured = trainer._measured(examples.held_draws(), trainer.at_once) / len(draws)
        assert trainer.validation == [(0, measured)]
        assert trainer._measured(draws, 8) / len(draws) == pytest.approx(measured, rel=1e-5)
        with torch.no_grad():
            each = [float(trainer._losses([draw])) for draw in draws]
        assert measured == pytest.approx(sum(each) / len(each), rel=1e-5)
        assert not any(parameter.grad is not None for parameter in weights.parameters())


@pytest.mark.slow
def test_a_stopped_training_holds_out_the_same_and_records_the_same(tiny, examples, tmp_path):
    whole = train(tiny, examples, tmp_path / "whole.train.pt")
    assert [done for done, _ in whole.validation] == [0, 2, 3]
    assert notice_of(whole, examples).startswith("3 steps on 3 pairs; 2 held out, loss ")
    path = tmp_path / "x.train.pt"
    with pytest.raises(Cancelled):
        train(tiny, examples, path, host=cancelling(1))
    assert read_state(path)["done"] < 3
    resumed = train(tiny, examples, path, resume=True)
    assert (resumed.validation, resumed.losses) == (whole.validation, whole.losses)
    with pytest.raises(RegionStyleError, match="validation 2"):
        train(tiny, examples, path, replace(SETTINGS, validation=1), resume=True)


@pytest.mark.slow
def test_the_measurement_that_a_stop_left_out_is_made_up_for(tiny, examples, tmp_path, monkeypatch):
    whole = train(tiny, examples, tmp_path / "whole.train.pt")
    validate, path = ExpertTrainer.validate, tmp_path / "x.train.pt"

    def stopped(trainer):
        if trainer.done == 2:
            raise Cancelled
        validate(trainer)

    monkeypatch.setattr(ExpertTrainer, "validate", stopped)
    with pytest.raises(Cancelled):
        train(tiny, examples, path)
    assert read_state(path)["validation"] == [list(whole.validation[0])]
    monkeypatch.setattr(ExpertTrainer, "validate", validate)
    assert train(tiny, examples, path, resume=True).validation == whole.validation


def test_it_falls_while_the_style_is_learnt(tiny, examples, tmp_path):
    settings = replace(SETTINGS, steps=12, batch=3, rate=5e-3, rank=8, preview_every=12)
    (_, before), (_, after) = train(tiny, examples, tmp_path / "x.train.pt", settings).validation
    assert after < 0.97 * before


def test_a_loss_that_is_no_number_is_an_error(tiny, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(ExpertTrainer, "_measured", lambda *given: float("nan"))
    with pytest.raises(RegionStyleError, match="held out at step 0"):
        train(tiny, examples, tmp_path / "x.train.pt")


def test_the_picture_shows_before_wanted_and_made(tiny, examples, tmp_path):
    made = train(tiny, examples, tmp_path / "x.train.pt")
    first, last = made.frames
    side, gap, caption = 64, held_out.GAP, held_out.CAPTION
    assert first.shape == (3, 2 * (side + caption + gap) + caption, 3 * (side + gap) + gap)
    for row, example in enumerate(examples.held):
        top = 2 * caption + row * (side + caption + gap)
        panels = [
            [frame[:, top : top + side, left : left + side] for left in (gap, side + 2 * gap, 2 * side + 3 * gap)]
            for frame in (first, last)
        ]
        for at, latent in enumerate((example.source, example.latent)):
            wanted = tiny.decode(latent[None])[0]
            assert torch.allclose(panels[0][at], wanted, atol=1e-5)
            assert torch.equal(panels[0][at], panels[1][at])
        assert (panels[0][2] - panels[1][2]).abs().max() > 1e-3, "what is made changes with the expert"
        assert first[:, top - caption : top].min() < 0.5, "the prompt stands above"


def test_a_long_prompt_is_cut(tiny):
    pictures = [torch.zeros(3, 3, 64, 64)]
    short, long = (held_out.rows_of([words], pictures) for words in ("a star " * 9, "a star " * 90))
    assert short.shape == long.shape
    assert long[:, 25:40, -5:].min() == 1, "nothing reaches the edge"
