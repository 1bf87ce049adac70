"""Who starts from a picture's own noise in tiles: only where every expert is known to want it."""

from dataclasses import replace

import pytest
import torch

from regionstyle.nodes.engine.lora import inverting
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.tinyworld.bundled import inverted_in_tiles, load_bundled_expert


@pytest.fixture(autouse=True)
def tellers(monkeypatch):
    monkeypatch.setattr(inverting, "_TELLERS", {})


def expert(name: str) -> Expert:
    return Expert(name, {"layer": LoraLayer(torch.zeros(1, 2), torch.zeros(2, 1))}, style=name)


def test_the_least_that_any_expert_wants():
    inverting.tell_inverting("a", lambda e: {"one": 1.0, "half": 0.5}.get(e.name))
    assert inverting.share_inverted([expert("one")]) == 1.0
    assert inverting.share_inverted([expert("one"), expert("half")]) == 0.5
    assert inverting.share_inverted([expert("one"), expert("unknown")]) == 0.0
    assert inverting.share_inverted([]) == 0.0
    inverting.tell_inverting("b", lambda e: 0.25 if e.name == "unknown" else None)
    assert inverting.share_inverted([expert("unknown")]) == 0.25


def test_shipped_experts_are_known_by_their_weights_not_by_their_style():
    shipped = load_bundled_expert("mosaic")
    assert inverted_in_tiles(shipped) == 1.0
    name, layer = next(iter(shipped.layers.items()))
    other = replace(shipped, layers={**shipped.layers, name: replace(layer, down=layer.down + 1)})
    assert inverted_in_tiles(other) is None
