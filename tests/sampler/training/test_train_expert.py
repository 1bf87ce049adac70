"""Teaching an expert: what is minimised, that nothing is mixed up, and that a stopped training goes on."""

import copy
from dataclasses import replace

import pytest
import torch
from pair_files import write_pairs

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.attention.supervision import PUBLISHED
from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.training.run import Trained
from regionstyle.nodes.engine.training.state import StateFile, facts_of, read_state
from regionstyle.nodes.sampler.training.examples import PairDraw, encode_pairs
from regionstyle.nodes.sampler.training.expert import ExpertTrainer
from regionstyle.nodes.sampler.training.manifest import read_manifest
from regionstyle.nodes.sampler.training.run import new_expert, notice_of, train_expert
from regionstyle.nodes.sampler.training.settings import ExpertTrainSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor

SETTINGS = ExpertTrainSettings(steps=4, batch=3, rate=1e-3, rank=2, warmup=0, preview_every=100)


@pytest.fixture(scope="module")
def tiny():
    return load_predictor(LocalHost("cpu"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return read_manifest(write_pairs(tmp_path_factory.mktemp("pairs")))


@pytest.fixture(scope="module")
def examples(tiny, pairs):
    return encode_pairs(tiny, pairs, 64, SETTINGS)


class Training:
    """A trainer with its expert attached to the tiny world, for the length of a `with` block."""

    def __init__(self, tiny, examples, settings=SETTINGS):
        self.weights = ExpertWeights(new_expert(tiny.network, "x", "mosaic", settings)).requires_grad_(True)
        self.predictor, self.examples, self.settings = tiny, examples, settings
        self.stack = ExpertStack(tiny.network, [self.weights])

    def __enter__(self):
        self.stack.attach().set(Gates({"x": 1.0}))
        self.trainer = ExpertTrainer(self.predictor, self.weights.parameters(), self.examples, self.settings)
        return self

    def __exit__(self, *error):
        self.stack.detach()

    def shaken(self):
        random = torch.Generator().manual_seed(5)
        for parameter in self.weights.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=random) * 0.02)
        return self

    def run(self, path, *, host=None, resume=False):
        predictor = copy.copy(self.predictor)
        predictor.host = host or self.predictor.host
        state = StateFile(path, facts_of(self.settings, self.examples.mark))
        return train_expert(predictor, self.weights, self.examples, self.settings, state, resume=resume)


def gradients(training, draws, size=8):
    loss, sums = training.trainer._summed(draws, size)
    return loss, [one / training.trainer.scale for one in sums]


def draws(examples, count=3):
    return [examples.draw(99, number) for number in range(count)]


def close(one, other):
    return all((a - b).norm() <= 2e-4 * a.norm() + 1e-9 for a, b in zip(one, other, strict=True))


def test_it_begins_as_the_published_script_does(tiny):
    expert = new_expert(tiny.network, "x", "mosaic", replace(SETTINGS, rank=4))
    downs = torch.cat([layer.down.flatten() for layer in expert.layers.values()])
    assert downs.std() == pytest.approx(0.25, rel=0.02)
    assert not any(layer.up.any() for layer in expert.layers.values())
    assert all(path.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) for path in expert.layers)


def test_latents_belong_to_their_pair_in_any_order(tiny, pairs, examples):
    turned = encode_pairs(tiny, pairs[::-1], 64, SETTINGS)
    for one, other in zip(examples.examples, reversed(turned.examples), strict=True):
        assert one.id == other.id
        assert torch.equal(one.latent, other.latent)
        assert torch.equal(one.targets[0].mask, other.targets[0].mask)
    drawn = [examples.draw(3, number).example for number in range(9)]
    for first in (0, 3, 6):  # every pair once per round
        assert {one.id for one in drawn[first : first + 3]} == {one.id for one in examples.examples}
    for one in drawn:
        pair = next(pair for pair in pairs if pair.prompt == one.prompt)
        image = pair.styled()[None]
        assert torch.allclose(tiny.encode(image)[0], one.latent, atol=1e-5)


def test_both_words_are_held_to_the_same_mask(examples):
    first = examples.examples[0]
    style, thing = first.targets
    assert style.phrase == "mosaic"
    assert set(style.tokens).isdisjoint(thing.tokens)
    assert torch.equal(style.mask, thing.mask)
    assert 0 < float(first.area.mean()) < 1


def test_the_loss_is_noise_error_plus_attention(tiny, examples):
    chosen = draws(examples)
    plain = replace(SETTINGS, focus=0.0, cover=0.0)
    with Training(tiny, examples) as training, torch.no_grad(), training.trainer._around(chosen):
        whole = training.trainer._losses(chosen)
        seen = training.trainer._attention_losses(chosen)
    with Training(tiny, replace(examples, examples=untargeted(examples)), plain) as training, torch.no_grad():
        bare = [replace(draw, example=replace(draw.example, targets=())) for draw in chosen]
        with training.trainer._around(bare):
            noise = training.trainer._losses(bare)
    assert torch.allclose(whole, noise + seen, atol=1e-6)
    assert (seen > 0).all()


def untargeted(examples):
    return [replace(one, targets=()) for one in examples.examples]


def test_the_background_weighs_what_lies_outside(tiny, examples):
    chosen = draws(examples)
    losses = []
    for background in (0.0, 1.0, 3.0):
        with Training(tiny, examples, replace(SETTINGS, background=background)) as training, torch.no_grad():
            losses.append(training.trainer._losses(chosen))
    inside, whole, more = losses
    assert (whole > inside).all()
    assert torch.allclose(more - inside, 3 * (whole - inside), rtol=1e-4)


@pytest.mark.parametrize("preset", ["own", "published", "paper"])
def test_cutting_the_batch_changes_nothing(tiny, pairs, preset):
    settings = replace(SETTINGS, preset=preset)
    examples = encode_pairs(tiny, pairs, 64, settings)
    chosen = draws(examples)
    with Training(tiny, examples, settings) as training:
        loss, whole = gradients(training.shaken(), chosen)
        again, parts = gradients(training, chosen, 1)
    assert loss == pytest.approx(again, rel=1e-5)
    assert close(whole, parts)


def test_checkpointing_is_exact(tiny, examples):
    """A checkpointed layer runs again in the backward pass, and the attention seen there must be the same."""
    chosen = draws(examples)
    with Training(tiny, examples) as training:
        loss, plain = gradients(training.shaken(), chosen)
        tiny.network.enable_gradient_checkpointing()
        tiny.network.train()
        try:
            again, checkpointed = gradients(training, chosen)
        finally:
            tiny.network.disable_gradient_checkpointing()
            tiny.network.eval()
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


def test_one_style_teaches_places_only_by_log_odds(tiny, pairs):
    """The published quantity of a one-token style is 1 everywhere: its losses have no gradient (a known fault)."""
    found = {}
    for preset in ("own", "published"):
        settings = replace(SETTINGS, preset=preset)
        examples = encode_pairs(tiny, pairs, 64, settings)
        with Training(tiny, examples, settings) as training:
            training.shaken()
            with training.trainer._around(draws(examples)):
                training.trainer._losses(draws(examples))
                loss = training.trainer._attention_losses(draws(examples)).sum()
                made = torch.autograd.grad(loss, training.trainer.parameters, allow_unused=True)
        found[preset] = sum(float(one.norm()) for one in made if one is not None)
    assert found["own"] > 1e-3
    assert found["published"] < 1e-4 * found["own"]
    assert replace(SETTINGS, preset="published").losses == PUBLISHED


class OneBatch:
    """Examples that give the same three samples in every step."""

    def __init__(self, examples):
        self.__dict__.update(vars(examples))
        self._given = [examples.draw(1, number) for number in range(3)]

    def draw(self, seed, number):
        one = self._given[number % 3]
        return PairDraw(one.example, 300, one.noise)


def test_attention_goes_where_the_mask_is(tiny, examples):
    settings = replace(SETTINGS, steps=12, rank=8, rate=5e-3, focus=1.0, cover=1.0)
    with Training(tiny, OneBatch(examples), settings) as training:
        losses = [training.trainer.step() for _ in range(settings.steps)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_thing_without_a_sure_inside_is_told(tiny, pairs):
    small = torch.zeros(64, 64)
    small[8:14, 8:14] = 1  # fills one cell of 8 x 8 pixels by 0.56
    thing = replace(pairs[0].things[0], mask=lambda: small)
    one = [replace(pairs[0], things=(thing,))]
    assert "nothing that is surely inside" in encode_pairs(tiny, one, 64, replace(SETTINGS, band=0.3)).skipped[0]
    assert not encode_pairs(tiny, one, 64, SETTINGS).skipped


def test_a_mask_that_says_nothing_is_told(tiny, pairs):
    empty = replace(pairs[0].things[0], mask=lambda: torch.zeros(64, 64))
    full = replace(pairs[1].things[0], mask=lambda: torch.ones(64, 64))
    made = encode_pairs(
        tiny, [replace(pairs[0], things=(empty,)), replace(pairs[1], things=(full,)), pairs[2]], 64, SETTINGS
    )
    assert len(made.skipped) == 2
    told = notice_of(Trained(None, [0.0]), made)
    assert told == "1 steps on 3 pairs, 2 things not supervised"
    assert "the same everywhere" in made.skipped[0]
    with Training(tiny, made) as training:
        assert training.trainer.step() > 0


def test_a_prompt_without_the_words_names_its_pair(tiny, pairs):
    with pytest.raises(RegionStyleError, match=r"pair '00000'.*mosaic"):
        encode_pairs(tiny, [replace(pairs[0], prompt="a red star")], 64, SETTINGS)
    with pytest.raises(RegionStyleError, match="resolution"):
        encode_pairs(tiny, pairs, 60, SETTINGS)
    with pytest.raises(RegionStyleError, match="pairs"):
        encode_pairs(tiny, [], 64, SETTINGS)


def test_settings_that_the_published_losses_would_ignore_are_refused():
    with pytest.raises(RegionStyleError, match="focus"):
        replace(SETTINGS, preset="published", focus=0.5)
    with pytest.raises(RegionStyleError, match="band"):
        replace(SETTINGS, preset="paper", band=0.2)
    with pytest.raises(RegionStyleError, match="source"):
        replace(SETTINGS, source="seen")
    with pytest.raises(RegionStyleError, match="background"):
        replace(SETTINGS, background=-1.0)
    with pytest.raises(RegionStyleError, match="rank"):
        replace(SETTINGS, rank=0)


def test_the_8_bit_optimiser_needs_its_package(tiny, examples, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    weights = ExpertWeights(new_expert(tiny.network, "x", "mosaic", SETTINGS)).requires_grad_(True)
    with pytest.raises(RegionStyleError, match="pip install bitsandbytes"):
        ExpertTrainer(tiny, weights.parameters(), examples, replace(SETTINGS, optimizer="adamw8bit"))


def test_the_8_bit_optimiser_learns_and_goes_on_from_its_state(tiny, examples, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = replace(SETTINGS, steps=3, rate=0.02, rank=64, optimizer="adamw8bit")
    with Training(tiny, examples, settings) as training:
        whole = training.run(tmp_path / "whole.train.pt")
    with Training(tiny, examples, settings) as training, pytest.raises(Cancelled):
        training.run(tmp_path / "x.train.pt", host=cancelling(1))
    with Training(tiny, examples, settings) as training:
        resumed = training.run(tmp_path / "x.train.pt", resume=True)
    assert "torch.uint8" in str(dtypes_of(read_state(tmp_path / "whole.train.pt")["optimizer"]["state"]))
    assert resumed.losses == whole.losses
    assert all(torch.equal(layer.up, resumed.expert.layers[path].up) for path, layer in whole.expert.layers.items())


def dtypes_of(value):
    """A table of moments, which bitsandbytes nests, with its tensors' dtypes in their place."""
    return {k: dtypes_of(v) for k, v in value.items()} if isinstance(value, dict) else getattr(value, "dtype", None)


def test_the_papers_losses_hold_the_words_of_the_style(tiny, pairs):
    """ "mosaic style", where the prompt says so; the published code holds the style's name alone."""
    found = {}
    for preset in ("own", "published", "paper"):
        made = encode_pairs(tiny, pairs[:1], 64, replace(SETTINGS, preset=preset))
        found[preset] = [target.phrase for target in made.examples[0].targets]
    assert found["published"] == ["mosaic"]
    assert found["paper"] == ["mosaic style"]
    assert found["own"][0] == "mosaic"
    bare = replace(pairs[0], prompt=pairs[0].prompt.replace(" style", ""))
    made = encode_pairs(tiny, [bare], 64, replace(SETTINGS, preset="paper"))
    assert [target.phrase for target in made.examples[0].targets] == ["mosaic"]


def test_half_the_precision_learns_too(examples):
    half = load_predictor(LocalHost("cpu"))
    half.network.to(torch.bfloat16)
    with Training(half, examples) as training:
        first = training.trainer.step()
        assert all(parameter.dtype == torch.float32 for parameter in training.trainer.parameters)
        assert training.trainer.step() > 0
    full = load_predictor(LocalHost("cpu"))
    with Training(full, examples) as training:
        assert first == pytest.approx(training.trainer.step(), rel=0.05)


def cancelling(after):
    seen = []
    return LocalHost(
        "cpu", on_progress=lambda label, at, total, preview: seen.append(at), cancelled=lambda: len(seen) >= after
    )


def test_a_stopped_training_goes_on_and_its_file_holds_what_was_trained(tiny, examples, tmp_path):
    settings, path = replace(SETTINGS, steps=3, rate=0.02), tmp_path / "x.train.pt"
    x, text = torch.randn(2, 4, 8, 8), tiny.encode_text(["make the red star mosaic style"])

    def eps():
        with torch.no_grad():
            return tiny.predict(x, 0.4, text).eps

    with Training(tiny, examples, settings) as training:
        whole, trained = training.run(tmp_path / "whole.train.pt"), eps()
    with Training(tiny, examples, settings) as training:
        with pytest.raises(Cancelled):
            training.run(path, host=cancelling(1))
        assert read_state(path)["done"] == 1
    with Training(tiny, examples, settings) as training:
        resumed = training.run(path, resume=True)
    assert resumed.losses == whole.losses
    for name, layer in whole.expert.layers.items():
        assert torch.equal(layer.up, resumed.expert.layers[name].up)
        assert torch.equal(layer.down, resumed.expert.layers[name].down)
    save_expert(whole.expert, tmp_path / "x.safetensors")
    plain = eps()
    with ExpertStack(tiny.network, [load_expert(tmp_path / "x.safetensors")]) as stack:
        stack.set(Gates({"x": 1.0}))
        assert (eps() - trained).abs().max() < 1e-4
    assert (trained - plain).abs().max() > 1e-3
    older = torch.load(path, weights_only=True)  # as versions wrote it that did not know these two
    older["facts"] = {name: value for name, value in older["facts"].items() if name not in ("band", "source")}
    torch.save(older, path)
    with Training(tiny, examples, settings) as training:
        assert training.run(path, resume=True).losses == whole.losses
    with (
        Training(tiny, examples, replace(settings, band=0.2)) as training,
        pytest.raises(RegionStyleError, match="band"),
    ):
        training.run(path, resume=True)
    with (
        Training(tiny, examples, replace(settings, focus=0.3)) as training,
        pytest.raises(RegionStyleError, match="focus"),
    ):
        training.run(path, resume=True)
