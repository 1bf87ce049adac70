"""Who acted, and why not: experts on a small U-Net, and the tiny world's restyling."""

from dataclasses import replace

import pytest
import torch
from adapter_networks import new_expert

from regionstyle.nodes.engine.adapters.acting import watching_experts
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.router.restyle import restyle_region
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_predictor
from regionstyle.nodes.tinyworld.world import scene

FAR = "its mask does not reach the region"


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (1.0, ""),
        (-0.5, ""),
        (torch.tensor([0.0, 1.0]), ""),
        (RegionGate(torch.ones(1, 4, 4)), ""),
        (0.0, "its strength is 0"),
        (torch.zeros(2), "its strength is 0"),
        (RegionGate(torch.ones(1, 4, 4), 0.0), "its strength is 0"),
        (RegionGate(torch.zeros(1, 4, 4)), FAR),
    ],
)
def test_every_kind_of_gate(unet, expert, run, gate, why):
    gates = Gates({"sketch": gate})
    with ExpertStack(unet, [expert]) as stack, watching_experts() as watch, stack.using(gates):
        run()
    assert watch.idle_reasons(gates) == {"sketch": why}


def test_an_expert_that_was_never_let_through(unet, expert, run):
    """As by a range of noise levels: its gate is open, and no call of the network got it."""
    both = ExpertStack(unet, [expert, new_expert(unet, "oil")])
    with both as stack, watching_experts() as watch, stack.using(Gates({"oil": 1.0})):
        run()
    told = watch.idle_reasons(Gates({"sketch": 1.0, "oil": 1.0}))
    assert told == {"sketch": "none of the steps lay within its noise levels", "oil": ""}
    assert watch.idle_reasons(Gates({"oil": 1.0})) == {"oil": ""}  # only of those that were asked for
    assert watch.idle_reasons(None) == {}


@pytest.mark.parametrize("part", ["up", "down", "scale"])
def test_a_file_without_any_effect(unet, expert, run, part):
    """As trainers write it before the first step."""
    layers = {
        path: replace(layer, **{part: 0.0 if part == "scale" else torch.zeros_like(getattr(layer, part))})
        for path, layer in expert.layers.items()
    }
    gates = Gates({"sketch": 1.0})
    with ExpertStack(unet, [replace(expert, layers=layers)]) as stack, watching_experts() as watch, stack.using(gates):
        run()
    assert watch.idle_reasons(gates) == {"sketch": "all weights of its file are 0"}


def test_nobody_watches_outside_of_the_block(unet, expert, run):
    gates = Gates({"sketch": 1.0})
    with ExpertStack(unet, [expert]) as stack:
        with watching_experts() as outer:
            with watching_experts() as inner, stack.using(None):
                run()
            with stack.using(gates):
                run()
        with watching_experts() as later:
            pass
    assert outer.idle_reasons(gates) == {"sketch": ""}
    assert inner.idle_reasons(gates) != {"sketch": ""}
    assert later.idle_reasons(gates) == {}


@pytest.mark.parametrize(
    ("expert_mask", "strength", "why"),
    [((0, 128), 1.0, ""), ((0, 128), 0.0, "its strength is 0"), ((100, 128), 1.0, FAR)],
)
def test_restyling_tells_why_its_expert_did_not_act(expert_mask, strength, why):
    predictor = load_predictor(LocalHost("cpu"), [load_bundled_expert("mosaic")])
    image, mask, own = torch.from_numpy(scene(3).image.copy()).permute(2, 0, 1)[None], *torch.zeros(2, 128, 128)
    mask[20:50, 20:50] = 1
    own[slice(*expert_mask)] = 1

    def gate(region, cut):
        return Gates({"mosaic": RegionGate(region * cut(own), strength)})

    settings = RestyleSettings(strength=0.2, steps=1, cfg=1.0, margin=0.0)
    assert restyle_region(predictor, image, mask, "mosaic", gate=gate, settings=settings).idle == {"mosaic": why}
