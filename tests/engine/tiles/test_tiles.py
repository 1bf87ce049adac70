"""Where tiles lie, what they weigh, and the noise beneath them."""

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.feather import feather_mask
from regionstyle.nodes.engine.tiles.canvas import Canvas
from regionstyle.nodes.engine.tiles.denoise import gates_in_tiles
from regionstyle.nodes.engine.tiles.grid import TileGrid, fused
from regionstyle.nodes.engine.tiles.noise import noise_at


def box_in(size, box):
    mask = torch.zeros(size)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (40, 61), (128, 19)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_cover_the_canvas_and_overlap(size, overlap):
    grid = TileGrid.over(size, 16, 8, overlap)
    covered = torch.zeros(size)
    for row, column in grid.corners:
        assert 0 <= row <= size[0] - 16
        assert 0 <= column <= size[1] - 16
        covered[row : row + 16, column : column + 16] += 1
    assert bool((covered > 0).all())
    rows = sorted({row for row, _ in grid.corners})
    assert all(later - row <= 16 - 16 * overlap for row, later in zip(rows, rows[1:], strict=False))


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_what_all_tiles_agree_on_comes_out_as_it_is(overlap):
    grid = TileGrid.over((40, 61), 16, 1, overlap)
    values = torch.rand(1, 3, 40, 61)
    assert torch.allclose(fused(grid, values, grid.corners, lambda tiles: tiles, (1, 1)), values, atol=1e-6)


def test_tiles_that_disagree_leave_no_step():
    """A different constant in every tile: neighbouring pixels differ by no more than the ramp is steep."""
    grid = TileGrid.over((64, 64), 16, 8, 0.25)
    count = iter(range(1000))
    picture = fused(grid, torch.zeros(1, 1, 64, 64), grid.corners,
                    lambda tiles: torch.stack([torch.full((1, 128, 128), float(next(count) % 2)) for _ in tiles]),
                    (1, 8))[0, 0]  # fmt: skip
    assert picture.min() < 0.05
    assert picture.max() > 0.95
    assert picture.diff(dim=1).abs().max() < 0.06


def test_a_canvas_lies_on_the_pictures_latent_grid_and_in_it():
    mask = box_in((600, 901), (333, 400, 520, 590))
    canvas = Canvas.around(mask, native=128, factor=8, context=16)
    assert canvas.top % 8 == canvas.left % 8 == canvas.height % 8 == canvas.width % 8 == 0
    x0, y0, x1, y1 = canvas.window
    assert (x0 <= 333 - 16, y0 <= 400 - 16, x1 >= 520 + 16, y1 == 600) == (True,) * 4
    picture = torch.rand(1, 3, 600, 901)
    assert torch.equal(canvas.cut(picture)[..., : y1 - y0, : x1 - x0], picture[..., y0:y1, x0:x1])


@pytest.mark.parametrize("size", [(40, 300), (300, 40), (128, 128), (131, 129)])
def test_a_canvas_is_never_smaller_than_a_tile(size):
    canvas = Canvas.around(torch.ones(size), native=128, factor=8, context=16)
    assert canvas.height >= 128
    assert canvas.width >= 128
    picture = torch.rand(1, 3, *size)
    result, blended = canvas.paste(picture, canvas.cut(picture) * 0, torch.ones(size), 0)
    assert not result.any()
    assert bool((blended == 1).all())


@pytest.mark.parametrize("feather", [-5, 0, 7])
def test_paste_keeps_what_is_outside_bit_for_bit(feather):
    mask = box_in((300, 280), (60, 70, 200, 300)) * 0.9
    canvas = Canvas.around(mask, native=64, factor=8, context=16)
    picture = torch.rand(1, 3, 300, 280)
    result, blended = canvas.paste(picture, torch.full((1, 3, canvas.height, canvas.width), 2.0), mask, feather)
    assert torch.equal(blended, feather_mask(mask, feather))
    outside = (blended == 0).expand_as(picture)
    assert torch.equal(result[outside], picture[outside])
    assert bool((result[~outside] > picture[~outside]).all())


def test_only_tiles_that_touch_the_region_are_kept():
    grid = TileGrid.over((128, 128), 16, 8, 0.25)
    diagonal = torch.zeros(1024, 1024)
    for at in range(0, 1024, 4):
        diagonal[at : at + 4, at : at + 4] = 1
    assert len(grid.touching(torch.ones(1024, 1024))) == len(grid.corners) == 121
    assert len(grid.touching(diagonal)) < 45
    assert grid.touching(torch.zeros(1024, 1024)) == ()


def test_the_same_place_has_the_same_noise():
    whole = noise_at((0, 0), (80, 90), 4, seed=3)
    assert torch.equal(noise_at((17, 40), (50, 33), 4, seed=3), whole[..., 17:67, 40:73])
    assert not torch.equal(noise_at((0, 0), (80, 90), 4, seed=4), whole)
    assert abs(float(whole.mean())) < 0.02
    assert abs(float(whole.std()) - 1) < 0.02
    blocks = [whole[0, 0, :32, :32].flatten(), whole[0, 0, :32, 32:64].flatten(), whole[0, 1, :32, :32].flatten()]
    assert float(torch.corrcoef(torch.stack(blocks)).triu(1).abs().max()) < 0.15


class TestGates:
    grid = TileGrid.over((32, 32), 16, 8, 0.25)

    def test_masks_are_cut_and_the_rest_stays(self):
        mask, visible = torch.rand(256, 256), torch.tensor([True, False, True])
        gates = Gates({"a": RegionGate(mask[None], 0.7, visible_tokens=visible), "b": 0.5, "c": mask},
                      pooled="off", rest_visible_tokens=~visible)  # fmt: skip
        cut = gates_in_tiles(gates, self.grid, [(0, 0), (8, 16)])
        assert torch.equal(cut.values["a"].mask, torch.stack([mask[:128, :128], mask[64:192, 128:]]))
        assert torch.equal(cut.values["c"].mask, cut.values["a"].mask)
        assert (cut.values["a"].strength, cut.values["b"], cut.pooled) == (0.7, 0.5, "off")
        assert torch.equal(cut.values["a"].visible_tokens, visible)
        assert torch.equal(cut.rest_visible_tokens, ~visible)
        assert gates_in_tiles(None, self.grid, [(0, 0)]) is None

    def test_masks_of_another_size_are_resized(self):
        cut = gates_in_tiles(Gates({"a": torch.ones(40, 40)}), self.grid, self.grid.corners)
        assert cut.values["a"].mask.shape == (9, 128, 128)
        assert torch.allclose(cut.values["a"].mask, torch.tensor(1.0))

    def test_several_pictures_are_refused(self):
        with pytest.raises(RegionStyleError, match="2 masks"):
            gates_in_tiles(Gates({"a": torch.ones(2, 256, 256)}), self.grid, [(0, 0)])
