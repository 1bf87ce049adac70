"""Training of the small harmoniser: reproducible, resumable, and what it draws."""

import pytest
import torch

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.data.composites import held_out_composites
from regionstyle.nodes.harmonizer.data.photographs import HELD_OUT, TRAINED, read_photograph
from regionstyle.nodes.harmonizer.small.network import new_network
from regionstyle.nodes.harmonizer.small.training import (
    ExampleSource,
    HarmonizerTraining,
    HarmonizerTrainingSettings,
    seen_of,
    train,
)

COFFEE = tuple(photograph for photograph in HELD_OUT if photograph.name == "coffee")


def source(**settings):
    chosen = HarmonizerTrainingSettings(**{"steps": 3, "batch": 4, "seed": 5, **settings})
    values = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(0))
    scene = (values[:3], (values[3] < 0.3).float())
    return ExampleSource(chosen, [scene], COFFEE)


def test_nothing_is_trained_on_that_is_measured():
    assert not {(p.package, p.file) for p in TRAINED} & {(p.package, p.file) for p in HELD_OUT}
    colour = [p for p in (*TRAINED, *HELD_OUT) if read_photograph(p).std(0).mean() > 0.005]
    assert len(HELD_OUT) / len(colour) >= 0.25


def test_a_step_draws_the_same_again_and_another_one_else():
    first, again, other = source().draw(1), source().draw(1), source().draw(2)
    assert torch.equal(first.composite, again.composite)
    assert not torch.equal(first.composite, other.composite)


def test_composites_are_the_truth_outside_and_something_else_inside():
    examples = source(batch=12, untouched=0.0, elsewhere=0.0).draw(0)
    outside = (examples.mask < 0.5).expand_as(examples.truth)
    assert torch.equal(examples.composite[outside], examples.truth[outside])
    change = ((examples.composite - examples.truth).abs() * examples.mask).sum((1, 2, 3))
    assert (change > 0).float().mean() > 0.8


def test_untouched_and_elsewhere():
    untouched = source(untouched=1.0, poisson=0.0).draw(0)
    assert torch.equal(untouched.composite, untouched.truth)
    assert seen_of(source(elsewhere=1.0).draw(0)).seam.abs().max() == 0


def test_a_training_that_was_stopped_goes_on_exactly(tmp_path):
    whole, state = HarmonizerTraining(source()), tmp_path / "state.pt"
    assert train(whole)
    parts = HarmonizerTraining(source())
    assert not train(parts, state, cancelled=lambda: parts.step == 1)
    resumed = HarmonizerTraining(source())
    assert train(resumed, state)
    for a, b in zip(whole.averaged.parameters(), resumed.averaged.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_other_settings_or_a_damaged_one(tmp_path):
    state = tmp_path / "state.pt"
    train(HarmonizerTraining(source(steps=1)), state)
    with pytest.raises(RegionStyleError, match="of other settings"):
        HarmonizerTraining(source(steps=2)).restore(state)
    state.write_bytes(b"nothing")
    with pytest.raises(RegionStyleError, match="training state"):
        HarmonizerTraining(source()).restore(state)


def test_new_weights_follow_from_the_seed_alone():
    before = torch.random.get_rng_state()
    a, b, c = new_network(1), new_network(1), new_network(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(a.unet.enter[0].weight, b.unet.enter[0].weight)
    assert not torch.equal(a.unet.enter[0].weight, c.unet.enter[0].weight)


def test_measured_composites_are_changed_and_repeatable():
    made, again = held_out_composites(COFFEE, 5, 64, 3), held_out_composites(COFFEE, 5, 64, 3)
    assert [c.shape for c in made] == ["ellipse", "box", "blob", "stroke", "segment"]
    for one, two in zip(made, again, strict=True):
        assert torch.equal(one.composite, two.composite)
        assert torch.equal(one.composite * (1 - one.mask), one.truth * (1 - one.mask))
        assert not torch.equal(one.composite, one.truth)
