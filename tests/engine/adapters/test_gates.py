"""Gates: what is accepted, what is refused, and the token grid of a layer."""

import pytest
import torch
from adapter_networks import mask_of

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.token_grid import token_grid
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (torch.full((1, 4, 4), 1.5), "0..1"),
        (torch.full((1, 4, 4), float("nan")), "0..1"),
        (torch.zeros(1, 1, 4, 4), r"\[B,H,W\]"),
        (float("nan"), "finite"),
    ],
)
def test_wrong_gates_say_what_is_accepted(unet, expert, gate, message):
    stack = ExpertStack(unet, [expert])
    with pytest.raises(RegionStyleError, match=message):
        stack.set(Gates({"sketch": gate}))


def test_a_mask_batch_that_does_not_fit_is_an_error(unet, expert, run):
    stack = ExpertStack(unet, [expert])
    with stack, stack.using(Gates({"sketch": mask_of(3, 4, 4)})), pytest.raises(RegionStyleError, match="3 entries"):
        run()


def test_scaled_gates_act_at_the_same_places():
    mask = torch.rand(1, 4, 4)
    gates = Gates({"number": 0.5, "each": torch.tensor([1.0, 2.0]), "mask": mask, "region": RegionGate(mask, 0.8)})
    assert gates.scaled(1.0) is gates
    made = gates.scaled(1.5).values
    assert made["number"] == 0.75
    assert made["each"].tolist() == [1.5, 3.0]
    for name, strength in (("mask", 1.5), ("region", 0.8 * 1.5)):
        assert made[name].mask is mask
        assert made[name].strength == pytest.approx(strength)


def test_unknown_names_layers_sizes_and_networks_are_errors(unet, expert):
    stack = ExpertStack(unet, [expert])
    with pytest.raises(RegionStyleError, match="oil"):
        stack.set(Gates({"oil": 1}))
    with pytest.raises(RegionStyleError, match="twice"):
        ExpertStack(unet, [expert, expert])
    missing = Expert("x", {"down_blocks.7.conv": LoraLayer(torch.zeros(1, 4), torch.zeros(4, 1))})
    with pytest.raises(RegionStyleError, match=r"down_blocks\.7\.conv"):
        ExpertStack(unet, [missing])
    size = Expert("x", {"conv_in": LoraLayer(torch.zeros(1, 9, 3, 3), torch.zeros(4, 1, 1, 1))})
    with pytest.raises(RegionStyleError, match="conv_in"):
        ExpertStack(unet, [size])
    with pytest.raises(RegionStyleError, match="UNet2DConditionModel"):
        ExpertStack(torch.nn.Linear(3, 3), [expert])


def test_token_grids():
    assert token_grid((12, 10), 120) == (12, 10)
    assert token_grid((13, 9), 7 * 5) == (7, 5)
    with pytest.raises(RegionStyleError, match="77"):
        token_grid((12, 10), 77)
    with pytest.raises(RegionStyleError, match="unknown"):
        token_grid(None, 1)
