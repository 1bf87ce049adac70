"""Stacks of experts, gates by words and by regions, ranges of noise levels: pure functions of both hosts."""

import math
import time

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.style_key import style_key
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.region.regions import Regions, region_of
from regionstyle.nodes.router.experts import Experts, StackedExpert, phrases_of
from regionstyle.nodes.router.gates.noise_range import gates_at
from regionstyle.nodes.router.gates.prompt_gates import (
    embedding,
    hard_weights,
    named_in_prompt,
    soft_weights,
    weighted_gates,
)
from regionstyle.nodes.router.gates.region_gates import region_gates_of, route_regions
from regionstyle.nodes.router.settings import NoiseRange


def stack(*styles: str, strength: float = 1.0) -> Experts:
    items = (StackedExpert(None, style.split(",")[0], phrases_of(style), strength) for style in styles)
    return Experts(tuple(items))


def box(left: int, right: int, size: int = 16) -> torch.Tensor:
    mask = torch.zeros(size, size)
    mask[:, left:right] = 1
    return mask


def regions(*parts: tuple[str, str, torch.Tensor, int], batch: int = 1) -> Regions:
    items = tuple(region_of(phrase, mask, style=style, image=image) for phrase, style, mask, image in parts)
    return Regions(items, 16, 16, batch)


def test_phrases_are_read_once_whatever_stands_between_them():
    assert phrases_of("pixel art, 8-bit;\n Pixel-Art,") == ("Pixel-Art", "8-bit")
    assert style_key("The Pixel-art style") == "pixel art"
    assert style_key("style") == "style"


@pytest.mark.parametrize("wrong", [("mosaic", "mosaic"), ("mosaic,tiles", "glass,tiles"), ("",)])
def test_names_phrases_and_words_belong_to_one_expert(wrong):
    with pytest.raises(RegionStyleError, match="expert|phrases"):
        stack(*wrong)


def test_a_style_is_found_by_any_of_its_words():
    experts = stack("pixel art,8-bit", "neon")
    assert experts.of_style("Pixel-Art style").name == "pixel art"
    assert experts.of_style("8 bit").name == "pixel art"
    with pytest.raises(RegionStyleError, match="'cubism', which has no expert.*'pixel art', '8-bit', 'neon'"):
        experts.of_style("cubism")


def test_a_prompt_names_whole_words_longest_first():
    experts = stack("art", "pixel art", "neon")
    assert named_in_prompt(experts, "Neon sign and a cat, pixel-art style") == ["neon", "pixel art"]
    assert named_in_prompt(experts, "an artist's neonatal ward") == []
    assert hard_weights(experts, "neon, pixel art") == {"art": 0.0, "pixel art": 0.5, "neon": 0.5}
    assert not any(hard_weights(experts, "a cat").values())


def test_soft_weights_follow_the_formula():
    query, prototypes = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
    got = soft_weights(query, prototypes, top_k=2, temperature=0.1)
    near = [math.exp(1.0 / 0.1), math.exp(0.8 / 0.1)]
    wanted = torch.tensor([near[0], 0.0, near[1], 0.0]) / sum(near)
    assert torch.allclose(got, wanted, atol=1e-6)
    assert got[1] == 0


def test_soft_weights_below_the_floor_are_off():
    query, prototypes = torch.tensor([1.0, 0.0]), torch.tensor([[0.9, 0.436], [0.6, 0.8]])
    assert soft_weights(query, prototypes, floor=0.8).tolist() == [1.0, 0.0]
    assert soft_weights(query, prototypes, floor=0.95).tolist() == [0.0, 0.0]
    assert soft_weights(query, prototypes, top_k=9).sum() == pytest.approx(1)


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"temperature": 0.0}, {"temperature": math.nan}])
def test_soft_weights_refuse_other_numbers(wrong):
    with pytest.raises(RegionStyleError, match=next(iter(wrong))):
        soft_weights(torch.ones(2), torch.ones(2, 2), **wrong)


def test_an_embedding_is_pooled_or_the_mean_of_the_words():
    states = torch.tensor([[[9.0, 9.0], [3.0, 0.0], [0.0, 4.0]]])
    text = Text(states, None, [[0, 1, 2]], [["", "", ""]], torch.tensor([[False, True, True]]))
    assert torch.allclose(embedding(text), torch.tensor([[0.6, 0.8]]))
    pooled = Text(states, torch.tensor([[0.0, 5.0]]), text.ids, text.pieces, text.valid)
    assert torch.allclose(embedding(pooled), torch.tensor([[0.0, 1.0]]))


def test_weights_multiply_strengths():
    gates = weighted_gates(stack("mosaic", "neon", strength=0.8), {"mosaic": 0.25, "neon": 0.0})
    assert gates.values == {"mosaic": pytest.approx(0.2), "neon": 0.0}


def test_regions_of_one_style_share_an_expert_and_masks_sum_to_one_at_most():
    things = regions(("star", "mosaic", box(0, 6), 0), ("moon", "Mosaic style", box(10, 12), 0),
                     ("ring", "neon", box(4, 8), 0))  # fmt: skip
    mosaic, neon = route_regions(stack("mosaic", "neon"), things)
    assert mosaic.things == ("star", "moon")
    assert mosaic.mask[0, 0].tolist() == [1] * 4 + [0.5] * 2 + [0] * 4 + [1] * 2 + [0] * 4
    assert neon.mask[0, 0].tolist() == [0] * 4 + [0.5] * 2 + [1] * 2 + [0] * 8


def test_soft_edges_still_sum_to_one_at_most():
    things = regions(("star", "mosaic", box(0, 8), 0), ("ring", "neon", box(8, 16), 0))
    hard, soft = (torch.stack([one.mask for one in route_regions(stack("mosaic", "neon"), things, edge=edge)])
                  for edge in (0, 3))  # fmt: skip
    assert float(soft.sum(0).max()) <= 1 + 1e-6
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert 0 < float(soft[0, 0, 0, 9]) < 0.5
    assert float(soft[0, 0, 0, 12]) == 0


def test_each_picture_of_a_batch_has_its_own_masks_and_unused_experts_are_off():
    things = regions(("star", "mosaic", box(0, 8), 0), ("star", "mosaic", box(8, 16), 1), batch=2)
    experts = stack("mosaic", "neon", strength=0.7)
    gates = region_gates_of(experts, route_regions(experts, things))
    assert gates.values["neon"] == 0
    assert gates.values["mosaic"].strength == 0.7
    assert gates.values["mosaic"].mask[:, 0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("parts", "said"),
    [((), "regions: got none"), ((("star", " ", box(0, 4), 0),), "'star' without a style"),
     ((("star", "cubism", box(0, 4), 0),), "'cubism', which has no expert")],
)  # fmt: skip
def test_what_cannot_be_routed_is_named(parts, said):
    with pytest.raises(RegionStyleError, match=said):
        route_regions(stack("mosaic"), regions(*parts))


def test_experts_act_within_their_range_of_noise():
    gates = Gates({"mosaic": 1.0, "neon": 0.5})
    ranges = {"neon": NoiseRange(0.25, 0.75)}
    acting = {t: set(gates_at(gates, ranges, t).values) for t in (1.0, 0.75, 0.5, 0.25, 0.2, 0.0)}
    both, one = {"mosaic", "neon"}, {"mosaic"}
    assert acting == {1.0: one, 0.75: both, 0.5: both, 0.25: both, 0.2: one, 0.0: one}


@pytest.mark.parametrize("wrong", [(0.5, 0.5), (-0.1, 1), (0, 1.1), (math.nan, 1)])
def test_a_range_runs_forwards_within_the_schedule(wrong):
    with pytest.raises(RegionStyleError, match="noise range"):
        NoiseRange(*wrong)


def test_thousands_of_regions_are_routed_at_once_and_can_be_cancelled():
    many = regions(*((f"star {number}", "mosaic", box(number % 16, number % 16 + 1), 0) for number in range(3000)))
    seen, experts = [], stack("mosaic")
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[1:3]), cancelled=lambda: len(seen) == 2)
    with pytest.raises(Cancelled):
        route_regions(experts, many, host=host)
    assert seen == [(1, 3000), (2, 3000)]
    start = time.process_time()
    (routed,) = route_regions(experts, many)
    assert time.process_time() - start < 5
    assert routed.things == tuple(f"star {number}" for number in range(3000))
    assert bool((routed.mask == 1).all())
    assert not bool((many.items[0].mask == 1).all()), "a region's own mask was written into"
