"""Editing by words: the picture beside the noise, what is kept of it, files, a loss that falls, and what ships."""

import copy

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.attention.supervision import PUBLISHED
from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.host.context import running_slice
from regionstyle.nodes.engine.host.memory import BatchSlice
from regionstyle.nodes.tinyworld import bundled
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.editing import (
    NAME,
    EditingAdapter,
    bundled_adapter,
    check_instruction,
    edit_by_words,
    load_adapter,
)
from regionstyle.nodes.tinyworld.settings import WordsEditSettings
from regionstyle.nodes.tinyworld.training import stages
from regionstyle.nodes.tinyworld.training.editing_stage import (
    ATTENTION,
    EditingLoss,
    absent_thing,
    drawn_pair,
    edited_latents,
    thing_words,
)
from regionstyle.nodes.tinyworld.training.latents import grid_masks, latent_file
from regionstyle.nodes.tinyworld.training.pool import Pool
from regionstyle.nodes.tinyworld.training.stages import Run, run_stage
from regionstyle.nodes.tinyworld.world import restyle_object, scene


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


def test_what_is_not_wanted_new_is_the_picture(tiny, adapter):
    """Half and half before training; with the choice shut, the picture itself."""
    source, clean = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    with adapter.attached(tiny.network), adapter.showing(source), torch.no_grad():
        eps(tiny, torch.randn(1, 4, 16, 16))
        torch.testing.assert_close(adapter.blended(clean), (source + clean) / 2)
        adapter.acting.conv.bias.fill_(-40.0)
        eps(tiny, torch.randn(1, 4, 16, 16))
        torch.testing.assert_close(adapter.blended(clean), source)


def test_in_parts_of_the_batch_it_is_the_same(tiny, adapter):
    """Two pictures and two prompts, in one pass and in slices of the batch, as where memory is short."""
    with torch.no_grad():
        for weights in (adapter.source_in.conv.weight, adapter.acting.conv.weight):
            weights.normal_()
    x, source = torch.randn(4, 4, 16, 16), torch.randn(2, 4, 16, 16)
    text = tiny.encode_text(["make the red star mosaic"])

    def prediction(slices):
        made = []
        for start, stop in slices:
            with running_slice(BatchSlice(start, stop, 4)), torch.no_grad():
                states = text.states.expand(stop - start, -1, -1)
                made.append(tiny.network(x[start:stop], torch.tensor(500), states).sample)
        return torch.cat(made), adapter.where(2), adapter.where(4)

    with adapter.attached(tiny.network), adapter.showing(source):
        for whole, parts in zip(prediction([(0, 4)]), prediction([(0, 1), (1, 3), (3, 4)]), strict=True):
            torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_the_order_of_prompts_is_the_hosts(tiny, adapter):
    """ComfyUI puts the negative prompt first, or runs the prompts one by one, and says which is which."""
    adapter._order = [1, 0]
    with torch.no_grad():
        adapter.acting.conv.weight.normal_()
        features = torch.randn(2, 64, 16, 16)
        adapter._look(None, (features,))
        assert torch.equal(adapter.where(1), adapter.acting(features)[1:])
        adapter._order = [0]
        adapter._look(None, (features[:1],))
        adapter._order = [1]
        adapter._look(None, (features[1:],))
        torch.testing.assert_close(adapter.where(1), adapter.acting(features[:1]))


def test_a_file_gives_it_back_and_is_small(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    adapter = EditingAdapter(tiny.network)
    with torch.no_grad():
        adapter.source_in.conv.weight.normal_()
    assert bundled.write(NAME, adapter.tensors()).stat().st_size <= 4e6
    again = bundled_adapter(tiny.network)
    assert torch.allclose(again.source_in.conv.weight, adapter.source_in.conv.weight, atol=1e-2)
    with pytest.raises(RegionStyleError, match="another network"):
        load_adapter(tiny.network, {"lora.layers.0.down": torch.zeros(2, 3)})
    (tmp_path / f"{NAME}.safetensors").unlink()
    with pytest.raises(RegionStyleError, match="missing"):
        bundled_adapter(tiny.network)


@pytest.mark.slow
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
    copy.deepcopy(adapter)  # as every training does: nothing of the last pass is left in it


def test_the_attention_is_held_as_asked(tiny, pool, tmp_path):
    source = latent_file(tmp_path / "s.npy", tiny.vae, pool, 6)
    adapter = EditingAdapter(tiny.network, rank=2)
    values = {}
    with adapter.attached(tiny.network):
        for name, attention in {"none": None, "ours": ATTENTION, "published": PUBLISHED}.items():
            parts = (tiny.network, adapter, tiny.text_encoder, source, source, grid_masks(pool, 6), pool.facts)
            loss = EditingLoss(*parts, size=3, attention=attention)
            torch.manual_seed(0)
            values[name] = loss(0)
            assert loss(1)[1].keys() == {"clean"}, "most steps do not look"
    error = float(values["none"][0].detach())
    for name, settings in (("ours", ATTENTION), ("published", PUBLISHED)):
        total, numbers = values[name]
        expected = error + settings.focus * numbers["focus"] + settings.cover * numbers["cover"]
        assert float(total.detach()) == pytest.approx(expected, rel=1e-4)
        assert numbers["focus"] > 0


def test_words_for_things_there_and_not_there():
    fact = {"objects": [["star", "red", []], ["star", "blue", []], ["moon", "red", []]]}
    random = np.random.default_rng(0)
    assert {thing_words(fact, 0, random) for _ in range(40)} == {"red star"}, "two stars: the colour must be said"
    assert {thing_words(fact, 2, random) for _ in range(40)} == {"red moon", "moon"}
    absent = {absent_thing(fact, random) for _ in range(200)}
    assert not absent & {"red star", "blue star", "red moon"}
    assert "blue moon" in absent


def test_editing_gives_a_picture(tiny, adapter):
    image, asked = torch.rand(2, 3, 128, 128), [("red star", "mosaic"), ("moon", "neon")]
    settings = WordsEditSettings(steps=1, seed=1)
    seen = []
    tiny.host._on_progress = lambda label, done, total, preview: seen.append((done, total, tuple(preview.shape)))
    try:
        made = edit_by_words(tiny, adapter, image, asked, settings)
    finally:
        tiny.host._on_progress = None
    assert seen == [(done, 2, (3, 128, 128)) for done in (1, 2)]
    assert made.images.shape == image.shape
    assert made.attention.shape == made.where.shape == (2, 2, 16, 16)
    assert 0 <= float(made.attention.min()) <= float(made.attention.max()) <= 1
    again = [
        edit_by_words(tiny, adapter, image[:1], asked[:1], WordsEditSettings(1, 1, cfg)) for cfg in (1.0, 1.0, 3.0)
    ]
    assert torch.equal(again[0].images, again[1].images)
    assert again[2].where.shape == (1, 1, 16, 16), "the empty instruction's row is left out"
    assert not torch.equal(again[0].images, again[2].images)


def test_it_is_cancelled_at_a_step(tiny, adapter):
    tiny.host._cancelled = lambda: True
    try:
        with pytest.raises(Cancelled):
            edit_by_words(tiny, adapter, torch.rand(1, 3, 128, 128), [("star", "mosaic")], WordsEditSettings(steps=2))
    finally:
        tiny.host._cancelled = None
    assert adapter._source is None


def test_what_it_was_not_taught_is_refused(tiny, adapter):
    image = torch.rand(1, 3, 128, 128)
    with pytest.raises(RegionStyleError, match=r"instruction: got nothing"):
        edit_by_words(tiny, adapter, image, [])
    with pytest.raises(RegionStyleError, match=r"image: got 64 x 128 pixels, expected 128 x 128"):
        edit_by_words(tiny, adapter, image[..., :64], [("star", "mosaic")])
    for phrase in ("dragon", "leftmost star", "two stars", "star red", "red", "", "red blue star"):
        with pytest.raises(RegionStyleError, match="instruction: got the thing"):
            check_instruction(phrase, "mosaic")
    with pytest.raises(RegionStyleError, match=r"style 'cubism', expected one of: pixel art"):
        check_instruction("red star", "cubism")
    check_instruction("star", "posterised")


def test_another_network_is_refused(tiny, adapter):
    before = tiny.network.conv_in.weight.data
    tiny.network.conv_in.weight.data = before + 0.1
    try:
        with pytest.raises(RegionStyleError, match=r"model: got UNet2DConditionModel of another model"):
            edit_by_words(tiny, adapter, torch.rand(1, 3, 128, 128), [("star", "mosaic")])
    finally:
        tiny.network.conv_in.weight.data = before


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(RegionStyleError, match="editing"):
        run_stage("edits", Run(tmp_path, torch.device("cpu")), 1)


@pytest.mark.slow
def test_the_stage_ships_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "POOL_SIZE", 8)
    monkeypatch.setattr(stages, "EDITING_PAIRS", 8)
    written = {}
    monkeypatch.setattr(stages, "write", lambda name, tensors: written.update({name: tensors}))
    run = Run(tmp_path, torch.device("cpu"))
    assert run_stage(NAME, run, 0.05) is True
    shipped = bundled.read(NAME)
    assert written[NAME].keys() == shipped.keys()
    change = max(float((written[NAME][key] - shipped[key].float()).abs().max()) for key in shipped)
    assert 0 < change < 0.5, "it goes on from what ships"


def test_what_ships_edits_where_it_is_told(tiny):
    """No mask: the thing comes nearer to the truth, and the other thing is left."""
    scenery = scene(102, split="held-out")
    image, truth = (
        torch.from_numpy(one.image).permute(2, 0, 1)[None] for one in (scenery, restyle_object(scenery, 0, "halftone"))
    )
    other, own = (torch.from_numpy(thing.mask) for thing in reversed(scenery.objects))
    adapter, settings = bundled_adapter(tiny.network), WordsEditSettings(steps=4)
    made = edit_by_words(tiny, adapter, image, [(scenery.objects[0].phrase, "halftone")], settings)

    def error(picture, mask):
        return float(((picture - truth).square() * mask).sum() / mask.sum())

    assert error(made.images, own) < 0.7 * error(image, own)
    assert error(made.images, other) < 0.05, "what the autoencoder loses"
    where = torch.nn.functional.interpolate(made.where, (128, 128))[0, 0]
    assert float((where * own).sum() / own.sum()) > 3 * float((where * other).sum() / other.sum())
