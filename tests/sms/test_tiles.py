"""SMS at the picture's own size: one tile is the plain path, what tiles are fused into, and what a region costs."""

import pytest
import torch
from sms_networks import autoencoder_kl, random, sms_predictor

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.engine.predictor.base import Prediction
from regionstyle.nodes.engine.region.feather import feather_mask
from regionstyle.nodes.engine.tiles.grid import TileGrid, fused
from regionstyle.nodes.engine.tiles.predictor import TiledPredictor
from regionstyle.nodes.sms.fake import NAME
from regionstyle.nodes.sms.objective import fake_loss, relevance_map
from regionstyle.nodes.sms.presets import REFERENCE
from regionstyle.nodes.sms.score import Prompts, StyleScore
from regionstyle.nodes.sms.settings import Framing, SmsSettings
from regionstyle.nodes.sms.stylize import match_style
from regionstyle.nodes.sms.work import CropWork, TileWork, works_of

FEW = SmsSettings(iterations=4, preview_every=2, seed=3)


def pictures(*size, count=1):
    small = torch.rand(count, 3, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(small, size, mode="bicubic").clamp(0, 1).double()


def box_in(size, box):
    mask = torch.zeros(size)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def run(images, masks, detail, settings=FEW, predictor=None, feather=2, caption="a red star", keep=False):
    """Of a fresh predictor, since a run trains its fake expert."""
    predictor = predictor or sms_predictor()
    fake = [parameter.requires_grad_(True) for parameter in predictor.experts.parameters(NAME)]
    framing = Framing(detail=detail, feather=feather)
    return match_style(
        predictor, images, masks, [caption], "mosaic", {"style": 0.8}, fake, settings, framing, keep=keep
    )


class TestOneTile:
    """A canvas of one tile is what is done without tiles."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("mask", "start"), [(None, "mode"), ((16, 8, 56, 48), "mode"), (None, "sample")])
    def test_the_same_picture(self, mask, start):
        images = pictures(64, 64, count=2)
        masks = None if mask is None else torch.stack([box_in((64, 64), mask)] * 2)
        settings, made = SmsSettings(iterations=3, seed=3, start=start, preview_every=9), []
        for detail in ("native", "full"):
            predictor = sms_predictor()
            predictor.vae = autoencoder_kl() if start == "sample" else predictor.vae
            made.append(run(images, masks, detail, settings, predictor))
        native, full = made
        assert full.tiles == 1
        torch.testing.assert_close(full.images, native.images, rtol=0, atol=1e-5)
        assert torch.equal(full.masks, native.masks)
        for name in ("style", "content", "fake", "movement", "times"):
            assert getattr(full.history, name) == pytest.approx(getattr(native.history, name), rel=1e-5)
        assert float((native.images - images).abs().max()) > 0.02

    def test_the_same_noise(self):
        predictor, x = sms_predictor(), random(3, 4, 8, 8)
        tiled = TiledPredictor(predictor, TileGrid.over((8, 8), 8, 8), [(0, 0)])
        text, times = predictor.encode_text(["a red star"]), torch.tensor([0.1, 0.3, 0.5])
        gates = Gates({"style": RegionGate(torch.rand(3, 64, 64)), NAME: torch.tensor([1.0, 0.0, 1.0])})
        with torch.no_grad():
            made, wanted = (each.predict(x, times, text, gates) for each in (tiled, predictor))
        torch.testing.assert_close(made.eps, wanted.eps, rtol=0, atol=1e-6)
        torch.testing.assert_close(made.denoised, wanted.denoised, rtol=0, atol=1e-6)


@pytest.fixture
def tiled():
    """Three tiles of 8 cells over 8 x 20; no tile lies on the third quarter of the second canvas."""
    return TiledPredictor(sms_predictor(), TileGrid.over((8, 20), 8, 8), [(0, 0), (0, 6), (0, 12)])


class TestFusion:
    def test_noise_is_that_of_each_tile_with_its_masks(self, tiled):
        x, mask = random(2, 4, 8, 20), torch.rand(2, 64, 160)
        text, times = tiled.encode_text(["a red star"]), torch.tensor([0.1, 0.4])
        with torch.no_grad():
            made = tiled.predict(x, times, text, Gates({"style": RegionGate(mask, 0.7)}))
            for row in range(2):
                tiles = []
                for _, column in tiled.corners:
                    gates = Gates({"style": RegionGate(mask[row : row + 1, :, column * 8 : column * 8 + 64], 0.7)})
                    tile = x[row : row + 1, ..., column : column + 8]
                    tiles.append(tiled.inner.predict(tile, times[row : row + 1], text, gates).eps)
                wanted = fused(tiled.grid, x[row : row + 1], tiled.corners, lambda _, t=tiles: torch.cat(t), (1, 1))
                torch.testing.assert_close(made.eps[row], wanted[0], rtol=0, atol=1e-5, check_dtype=False)
        torch.testing.assert_close(tiled.add_noise(made.denoised, made.eps, times), x, rtol=0, atol=1e-5)

    def test_where_no_tile_lies_nothing_is_predicted_and_the_map_is_stretched_without_it(self):
        partly = TiledPredictor(sms_predictor(), TileGrid.over((8, 20), 8, 8), [(0, 0), (0, 6)])
        x, text = random(1, 4, 8, 20), partly.encode_text(["a red star"])
        with torch.no_grad():
            eps = partly.predict(x, 0.3, text, Gates()).eps
        assert not eps[..., 14:].any()
        assert partly.covered.sum() == 8 * 14
        other = eps + torch.where(eps == 0, 0.0, torch.rand_like(eps) + 1)
        stretched = relevance_map(other, eps, "absolute_first", partly.covered)[..., :14]
        torch.testing.assert_close(stretched, relevance_map(other[..., :14], eps[..., :14], "absolute_first"))
        assert stretched.min() == 0
        assert float(relevance_map(other, eps, "absolute_first")[..., :14].min()) > 0.1

    def test_the_fake_predictor_learns_tiles_weighted_as_they_are_fused(self, tiled):
        prompts = Prompts.of(tiled, [""], "mosaic", REFERENCE)
        score = StyleScore(tiled, prompts, {"style": 1.0}, SmsSettings())
        latent, noise, times = random(2, 4, 8, 20), random(2, 4, 8, 20, seed=1), torch.tensor([101.0, 251.0]).double()
        terms = list(score.fake_errors(latent, times, noise))
        assert len(terms) == 3
        noisy = tiled.add_noise(latent, noise, times / 1000)
        weight = tiled.alpha_sigma(times / 1000)[0].double() ** 2
        total, covered = torch.zeros(2), torch.zeros(8, 20)
        for _, column in tiled.corners:
            covered[:, column : column + 8] += tiled.grid.weight()
        for _, column in tiled.corners:
            at = slice(column, column + 8)
            eps = tiled.inner.predict(noisy[..., at], times / 1000, prompts.style, Gates({NAME: 1.0})).eps
            error = (weight[:, None, None, None] * (eps - noise[..., at])) ** 2
            total = total + (error.mean(1) * tiled.grid.weight() / covered[:, at]).sum((1, 2)) / (8 * 20)
        torch.testing.assert_close(score.fake_error(latent, times, noise), total, rtol=1e-5, atol=0)
        torch.testing.assert_close(sum(terms), total, rtol=1e-5, atol=0)

    def test_a_loss_of_one_tile_is_that_of_the_whole(self):
        made, noise, weight = random(2, 4, 8, 8), random(2, 4, 8, 8, seed=1), torch.tensor([0.5, 1.0])
        torch.testing.assert_close(fake_loss(made, noise, weight, torch.ones(8, 8), 64), fake_loss(made, noise, weight))

    @pytest.mark.slow
    def test_a_drawn_start_deviates_as_far_in_several_tiles_as_in_one(self, tiled):
        tiled.inner.vae = autoencoder_kl()
        images = pictures(64, 160)
        mode = tiled.encode(images)
        drawn = [tiled.encode_sample(images, torch.Generator().manual_seed(seed)) - mode for seed in range(40)]
        spread = torch.stack(drawn).std(0).mean((0, 1, 2))
        assert 0.8 < float(spread[6:8].mean() / spread[:6].mean()) < 1.25


class TestRegions:
    @pytest.mark.slow
    def test_outside_the_masks_every_pixel_is_equal_and_inside_it_changes(self):
        images = pictures(136, 200, count=2)
        masks = torch.stack([box_in((136, 200), (20, 10, 130, 100)), box_in((136, 200), (100, 60, 200, 136))])
        made = run(images, masks, "full")
        assert made.note == ""
        assert torch.equal(made.masks, torch.stack([feather_mask(mask, 2) for mask in masks]))
        outside = (made.masks == 0)[:, None].expand_as(images)
        assert torch.equal(made.images[outside], images[outside])
        assert float((made.images != images)[~outside].float().mean()) > 0.9
        assert max(made.frames[-1].shape[-2:]) == 64, "a preview is small"

    @pytest.mark.parametrize(("side", "masked", "ways", "enlarged"), [
        (64, False, [CropWork], False), (96, False, [CropWork], False), (120, False, [TileWork], True),
        (300, (10, 10, 60, 60), [CropWork], False), (300, (10, 10, 150, 150), [TileWork], True),
    ])  # fmt: skip
    def test_auto_is_decided_by_how_far_a_crop_would_be_enlarged(self, side, masked, ways, enlarged):
        masks = box_in((side, side), masked)[None] if masked else None
        images, predictor = pictures(side, side), sms_predictor()
        works = {detail: works_of(predictor, images, masks, Framing(detail=detail)) for detail in
                 ("auto", "native", "full", "both")}  # fmt: skip
        assert [type(work) for work in works["auto"]] == ways
        assert [type(work) for work in works["both"]] == [CropWork, TileWork]
        assert ("full" in works["native"][0].note) == enlarged
        assert works["full"][0].note == works["auto"][0].note == ""
        with pytest.raises(RegionStyleError, match="detail"):
            Framing(detail="sharp")

    def test_a_region_costs_what_its_own_area_costs(self):
        """By tiles per iteration: the same in a picture of 300 px as in one of 6000, linear in the area."""
        predictor = sms_predictor()

        def tiles(side, inner):
            picture, at = torch.zeros(1, 3, 1, 1).expand(1, 3, side, side), (side - inner) // 16 * 8
            mask = box_in((side, side), (at, at, at + inner, at + inner))[None]
            return TileWork(predictor, picture, mask, Framing()).tiles

        assert tiles(300, 100) == tiles(6000, 100)
        per_area = [tiles(2400, inner) / (inner + 16) ** 2 for inner in (240, 480, 960, 1920)]
        assert max(per_area) < 1.3 * min(per_area)

    def test_the_network_is_called_once_per_tile_and_step(self):
        predictor = sms_predictor()
        calls = []
        predictor.network.register_forward_hook(lambda network, args, output: calls.append(len(args[0])))
        made = run(pictures(64, 160), None, "full", SmsSettings(iterations=2), predictor)
        assert made.tiles == 3
        assert sorted(calls) == [1] * 2 * 3 + [6] * 2 * 3

    @pytest.mark.slow
    def test_both_gives_half_of_the_iterations_to_each(self):
        predictor, sizes, images = sms_predictor(), [], pictures(128, 128)
        predictor.network.register_forward_hook(
            lambda network, args, output: sizes.append(tuple(args[0].shape[-2:])) if len(args[0]) == 6 else None
        )
        made = run(images, None, "both", SmsSettings(iterations=4, seed=3), predictor)
        assert sizes == [(8, 8)] * 2 + [(8, 8)] * 2 * made.tiles
        assert len(made.history.style) == 4
        assert made.history.times[2] <= 250
        assert made.note == ""
        full = run(images, None, "full", SmsSettings(iterations=4, seed=3))
        assert not torch.allclose(full.images, made.images, atol=1e-3)

    @pytest.mark.slow
    def test_both_sees_on_a_square_picture_that_nothing_changed(self):
        """A preview of the canvas is as large as one of the crop: the two are never compared with each other."""
        still = SmsSettings(iterations=2, seed=3, rate=1e-6)
        assert not run(pictures(96, 96), None, "both", still).seen
        assert run(pictures(96, 96), None, "both", SmsSettings(iterations=2, seed=3, rate=0.1)).seen

    @pytest.mark.slow
    def test_both_settles_at_each_size_by_its_own_iterations(self):
        settled = SmsSettings(iterations=12, window=3, tolerance=100.0)
        assert len(run(pictures(128, 128), None, "both", settled).history.style) == 6


class TestHost:
    @pytest.mark.slow
    def test_where_memory_is_short_the_result_is_the_same(self):
        made = []
        for room in (99, 1):
            predictor = sms_predictor()

            def short(network, args, output, room=room):
                if len(args[0]) > room:
                    raise RuntimeError("CUDA out of memory")

            predictor.network.register_forward_hook(short)
            made.append(run(pictures(64, 160, count=2), None, "full", SmsSettings(iterations=2), predictor).images)
        torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-6)

    def test_cancel_between_two_tiles(self):
        calls = []
        predictor = sms_predictor(host=LocalHost("cpu", cancelled=lambda: len(calls) >= 2))
        predictor.network.register_forward_hook(lambda network, args, output: calls.append(len(args[0])))
        with pytest.raises(Cancelled):
            run(pictures(64, 160), None, "full", FEW, predictor)
        assert calls == [6, 6]

    @pytest.mark.parametrize(("detail", "coding", "iterations"), [("full", "decode", 2), ("both", "encode", 4)])
    def test_a_cancel_between_two_tiles_of_the_autoencoder_keeps_the_iterations(self, detail, coding, iterations):
        """Told once, after two iterations: in the last decode, or where the second size begins."""
        done, asked, told = [], [], []
        host = LocalHost(
            "cpu", on_progress=lambda *seen: done.append(seen[1]), cancelled=lambda: bool(asked and asked.pop())
        )
        predictor = sms_predictor(host=host)
        of_inner = getattr(predictor, coding)

        def coded(tensor):
            if done and done[-1] == 2 and not told:
                asked.append(True)
                told.append(True)
            return of_inner(tensor)

        setattr(predictor, coding, coded)
        images, settings = pictures(64, 160), SmsSettings(iterations=iterations, rate=0.1)
        made = run(images, None, detail, settings, predictor, keep=True)
        assert made.stopped == f"cancelled after 2 of {iterations} iterations: the picture so far"
        assert made.tiles == (3 if detail == "full" else 0)
        assert len(made.history.style) == 2
        assert float((made.images - images).abs().mean()) > 0.01

    def test_a_network_for_inpainting_is_told_its_part_by_every_tile(self, tiled):
        images, mask = pictures(64, 160).float(), box_in((64, 160), (40, 8, 100, 60))[None]
        tiled.inpaints = tiled.inner.inpaints = True
        told = []

        def seen(x, *args):
            told.append(tiled.inner._told_to_inpaint(x))
            return Prediction(x, x)

        tiled.inner.predict = seen
        with torch.no_grad(), tiled.inpainting(images, mask):
            tiled.predict(random(2, 4, 8, 20), 0.3, tiled.encode_text([""]), Gates())
        cells = torch.nn.functional.max_pool2d(mask[None], 8)
        for one, (_, column) in zip(told, tiled.corners, strict=True):
            assert torch.equal(one.mask, cells[..., column : column + 8].repeat(2, 1, 1, 1).to(one.mask))
            assert one.latents.shape == (2, 4, 8, 8)
        assert tiled.inner._inpainting is None
