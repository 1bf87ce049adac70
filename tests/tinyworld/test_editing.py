"""Editing by words: the picture beside the noise, exactly; a file that gives it back; a loss that falls."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.editing import EditingAdapter, edit_by_words, load_adapter, read_adapter
from regionstyle.nodes.tinyworld.training.editing_stage import EditingLoss, drawn_pair, edited_latents
from regionstyle.nodes.tinyworld.training.latents import grid_masks, latent_file
from regionstyle.nodes.tinyworld.training.pool import Pool
from regionstyle.nodes.tinyworld.training.stages import Run, run_stage, write_adapter
from regionstyle.nodes.tinyworld.world import scene


@pytest.fixture(scope="module")
def tiny():
    return load_predictor(LocalHost("cpu"))


@pytest.fixture
def adapter(tiny):
    return EditingAdapter(tiny.network, rank=2)


@pytest.fixture(scope="module")
def pool():
    scenes = [scene(seed) for seed in range(6)]
    masks = np.zeros((6, 3, 128, 128), np.uint8)
    for number, one in enumerate(scenes):
        for place, thing in enumerate(one.objects):
            masks[number, place] = np.round(thing.mask * 255)
    facts = [
        {"background": s.background, "objects": [[t.shape, t.color, list(t.box)] for t in s.objects]} for s in scenes
    ]
    return Pool(np.stack([np.round(s.image * 255).astype(np.uint8) for s in scenes]), masks, facts)


def eps(tiny, x):
    with torch.no_grad():
        return tiny.predict(x, 0.5, tiny.encode_text(["make the red star mosaic"])).eps


def test_before_training_it_changes_nothing_and_leaves_no_trace(tiny, adapter):
    x = torch.randn(2, 4, 16, 16)
    plain = eps(tiny, x)
    with adapter.attached(tiny.network), adapter.showing(torch.randn(1, 4, 16, 16)):
        assert torch.equal(eps(tiny, x), plain)
    assert torch.equal(eps(tiny, x), plain)


def test_it_is_one_convolution_over_both_latents(tiny, adapter):
    """The widened first convolution, cut in two."""
    with torch.no_grad():
        adapter.source_in.conv.weight.normal_()
        adapter.source_in.conv.bias.normal_()
    own, more = tiny.network.conv_in, adapter.source_in.conv
    wide = torch.nn.Conv2d(8, 64, 3, padding=1)
    wide.weight.data = torch.cat([own.weight, more.weight], 1)
    wide.bias.data = own.bias + more.bias
    x, source, seen = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), []
    with adapter.attached(tiny.network), adapter.showing(source), torch.no_grad():
        handle = own.register_forward_hook(lambda module, args, output: seen.append(output))
        eps(tiny, x)
        handle.remove()
        assert torch.allclose(seen[0], wide(torch.cat([x, source], 1)), atol=1e-4)


def test_a_picture_per_row_and_wrong_ones(tiny, adapter):
    with torch.no_grad():
        adapter.source_in.conv.weight.normal_()
    x = torch.randn(1, 4, 16, 16).repeat(4, 1, 1, 1)
    with adapter.attached(tiny.network):
        with adapter.showing(torch.randn(2, 4, 16, 16)):
            made = eps(tiny, x)
        assert torch.allclose(made[0], made[2], atol=1e-5)  # pictures once per prompt
        assert not torch.allclose(made[0], made[1], atol=1e-2)
        with pytest.raises(RegionStyleError, match="no picture"):
            eps(tiny, x)
        with adapter.showing(torch.randn(3, 4, 16, 16)), pytest.raises(RegionStyleError, match="3 latents"):
            eps(tiny, x)


def test_a_file_gives_it_back_and_is_small(tiny, tmp_path):
    adapter = EditingAdapter(tiny.network)
    with torch.no_grad():
        adapter.source_in.conv.weight.normal_()
    write_adapter(adapter, tmp_path / "editing.safetensors")
    assert (tmp_path / "editing.safetensors").stat().st_size <= 4e6
    again = read_adapter(tiny.network, tmp_path / "editing.safetensors")
    assert torch.allclose(again.source_in.conv.weight, adapter.source_in.conv.weight, atol=1e-2)
    with pytest.raises(RegionStyleError, match="no file"):
        read_adapter(tiny.network, tmp_path / "none.safetensors")
    with pytest.raises(RegionStyleError, match="another network"):
        load_adapter(tiny.network, {"lora.layers.0.down": torch.zeros(2, 3)})


def test_pairs_follow_from_their_number_and_the_loss_falls(tiny, pool, tmp_path):
    source = latent_file(tmp_path / "s.npy", tiny.vae, pool, 6)
    edited = edited_latents(tmp_path / "e.npy", tiny.vae, pool, 6)
    assert np.array_equal(edited, edited_latents(tmp_path / "e.npy", None, pool, 6))
    assert [drawn_pair(pool.facts[i], i) for i in range(6)] == [drawn_pair(pool.facts[i], i) for i in range(6)]
    masks = grid_masks(pool, 6)
    for i in range(6):  # what changes is the object
        far = masks[i, drawn_pair(pool.facts[i], i)[0]] == 0
        change = torch.from_numpy(np.abs(edited[i].astype(np.float32) - source[i]).mean(0))
        assert change[far].mean() < change[~far].mean()
    adapter = EditingAdapter(tiny.network, rank=4).requires_grad_(True)
    loss = EditingLoss(tiny.network, adapter, tiny.text_encoder, source, edited, masks, pool.facts, size=4)
    optimizer = torch.optim.Adam(adapter.parameters(), 3e-3)
    torch.manual_seed(0)
    with adapter.attached(tiny.network):
        values = []
        for _ in range(10):
            torch.manual_seed(1)
            made, _ = loss(0)
            made.backward()
            optimizer.step()
            optimizer.zero_grad()
            values.append(float(made.detach()))
    assert values[-1] < 0.8 * values[0]


def test_editing_gives_a_picture(tiny, adapter):
    image = torch.rand(2, 3, 64, 64)
    made = edit_by_words(tiny, adapter, image, "make the red star mosaic", steps=2)
    assert made.shape == image.shape
    assert torch.equal(made, edit_by_words(tiny, adapter, image, "make the red star mosaic", steps=2))


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(RegionStyleError, match="editing"):
        run_stage("edits", Run(tmp_path, torch.device("cpu")), 1)
