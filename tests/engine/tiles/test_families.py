"""Tiles on every family of the diffusers host: what is fused is what the network says of each tile."""

from dataclasses import replace

import pytest
import torch
from family_models import diffusers_network, diffusers_scheduler, family_inputs

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.predictor.sampling import ddim, guided, partial_times
from regionstyle.nodes.engine.tiles.denoise import TiledDenoiser, TiledRegion, denoise_tiles, invert_tiles
from regionstyle.nodes.engine.tiles.grid import TileGrid, fused
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_predictor
from regionstyle.nodes.tinyworld.world import scene


class Vae(torch.nn.Module):
    class config:
        block_out_channels = (1, 2, 3, 4)


def text_of(states, pooled):
    rows = [[0] * states.shape[1]] * len(states), [[""] * states.shape[1]] * len(states)
    return Text(states, pooled, *rows, torch.ones(states.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "sd35", "flux", "schnell"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_every_family(family, cfg):
    network, scheduler = diffusers_network(family), diffusers_scheduler(family)
    predictor = DiffusersPredictor(network, Vae(), None, None, scheduler, LocalHost("cpu"))
    x, states, pooled = family_inputs(family, size=(8, 20))
    one, two = (text_of(states[at : at + 1], pooled[at : at + 1]) for at in (0, 1))
    grid = TileGrid.over((8, 20), 8, 8)
    assert len(grid.corners) == 3
    region = TiledRegion(torch.ones(64, 160), one, grid.corners, two)
    with torch.no_grad():
        made = TiledDenoiser(predictor, grid, [region], cfg).predict(x[:1], 0.4)
        wanted = fused(grid, x[:1], grid.corners, lambda tiles: guided(predictor, tiles, 0.4, one, two, cfg).denoised,
                       (1, 1))  # fmt: skip
    assert torch.allclose(made.denoised, wanted, atol=1e-4)
    assert torch.allclose(predictor.add_noise(made.denoised, made.eps, 0.4), x[:1], atol=1e-4)


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"), [load_bundled_expert("mosaic")])


@pytest.fixture(scope="module")
def words(predictor):
    return predictor.encode_text(["a red star in mosaic style"])


class TestOneTile:
    """A canvas of one tile is what the sampler does without tiles."""

    def gates(self, words):
        mask = torch.zeros(128, 128)
        mask[:, 40:] = 1
        visible = torch.ones(words.states.shape[1], dtype=torch.bool)
        isolated = RegionGate(mask, 0.8, visible_tokens=visible.clone().index_fill(0, torch.tensor([2, 3]), False))
        return Gates({"mosaic": isolated}, rest_visible_tokens=visible.clone().index_fill(0, torch.tensor(5), False))

    @torch.no_grad()
    def test_sampling_with_gates_and_isolated_attention(self, predictor, words):
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        gates, grid, times = self.gates(words), TileGrid.over((16, 16), 16, 8), partial_times(0.6, 2)
        region = TiledRegion(torch.ones(128, 128), words, grid.corners, None, gates)
        made = denoise_tiles(TiledDenoiser(predictor, grid, [region]), x, times)
        assert torch.allclose(made, ddim(predictor, x, times, words, gate=gates), atol=1e-4)
        open_ = replace(gates, rest_visible_tokens=None)
        assert not torch.allclose(made, ddim(predictor, x, times, words, gate=open_), atol=1e-3)

    @torch.no_grad()
    def test_inversion_undoes_sampling(self, predictor):
        plain, times = predictor.encode_text(["a picture"]), partial_times(0.3, 8)
        torch.manual_seed(0)
        picture = torch.from_numpy(scene(100, split="held-out").image).permute(2, 0, 1)[None]
        clean = predictor.encode(picture)
        grid = TileGrid.over((16, 16), 16, 8)
        denoiser = TiledDenoiser(
            predictor, grid, [TiledRegion(torch.ones(128, 128), plain, grid.corners, None, Gates())]
        )
        noise = invert_tiles(denoiser, clean, times)
        back = denoise_tiles(denoiser, predictor.add_noise(clean, noise, times[0]), times)
        drawn = denoise_tiles(denoiser, predictor.add_noise(clean, torch.randn_like(noise), times[0]), times)
        errors = [float((one - clean).square().mean()) for one in (back, drawn)]
        assert errors[0] < 0.3 * errors[1]


def test_a_regions_estimate_counts_where_the_region_is():
    predictor = load_predictor(LocalHost("cpu"))
    grid, left = TileGrid.over((16, 16), 16, 8), torch.zeros(128, 128)
    left[:, :64] = 1
    texts = [predictor.encode_text([words]) for words in ("a red star", "a blue ring in neon style")]
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    regions = [TiledRegion(mask, text, grid.corners) for mask, text in zip((left, 1 - left), texts, strict=True)]
    with torch.no_grad():
        denoiser = TiledDenoiser(predictor, grid, regions)
        made = denoiser.predict(x, 0.7).denoised
        alone = [predictor.predict(x, 0.7, text).denoised for text in texts]
    assert denoiser.calls == 2
    assert torch.allclose(made[..., :8], alone[0][..., :8], atol=0.02)
    assert torch.allclose(made[..., 8:], alone[1][..., 8:], atol=0.02)
    assert not torch.allclose(alone[0], alone[1], atol=0.05)
