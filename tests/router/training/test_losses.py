"""What a style training minimises."""

import pytest
import torch

from regionstyle.nodes.engine.predictor.schedule import FlowSchedule, from_flow, from_v
from regionstyle.nodes.engine.training.lora_trainer import sample_losses


@pytest.mark.parametrize("kind", ["v", "flow"])
def test_the_loss_is_that_of_what_the_network_predicts(kind):
    x0, eps, error = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
    if kind == "flow":
        alpha, sigma = FlowSchedule().alpha_sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
        convert, truth = from_flow, eps - x0
    else:
        sigma = torch.tensor([0.03, 0.6, 1.0], dtype=torch.float64)
        alpha, convert = (1 - sigma**2).sqrt(), from_v
        truth = alpha.view(-1, 1, 1, 1) * eps - sigma.view(-1, 1, 1, 1) * x0
    noisy = alpha.view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * eps
    made = convert(noisy, truth + error, alpha, sigma)
    losses = sample_losses(kind, made, x0, eps, alpha, sigma)
    assert torch.allclose(losses, error.square().flatten(1).mean(1))
