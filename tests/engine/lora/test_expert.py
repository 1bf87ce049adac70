"""Experts in memory: what is refused."""

import pytest
import torch
from lora_layouts import UPDATES

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer


def test_misshapen_layers_are_refused():
    for down, up in [((2, 3), (4, 5)), ((2, 3), (4, 2, 3, 3)), ((2,), (4, 2)), ((0, 3), (4, 0))]:
        with pytest.raises(RegionStyleError, match="LoRA layer"):
            LoraLayer(torch.zeros(down), torch.zeros(up))
    with pytest.raises(RegionStyleError, match="no layers"):
        Expert("x", {})
    with pytest.raises(RegionStyleError, match="name"):
        Expert("", {"conv_in": LoraLayer(*UPDATES["conv_in"])})
