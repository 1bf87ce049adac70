"""Training: losses learn, a stopped stage goes on where it was, every stage ships what the next one reads."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from regionstyle.nodes.engine.attention.losses import cover_loss, focus_loss
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.tinyworld import bundled
from regionstyle.nodes.tinyworld.classifier import LABELS
from regionstyle.nodes.tinyworld.networks import scheduler
from regionstyle.nodes.tinyworld.training import stages
from regionstyle.nodes.tinyworld.training.classifier_stage import draw_labelled
from regionstyle.nodes.tinyworld.training.clip_stage import PROMPT_LISTS, contrastive_loss, draw_pair, list_loss
from regionstyle.nodes.tinyworld.training.decoder_stage import DecoderLoss, VariedPictures
from regionstyle.nodes.tinyworld.training.decoder_stage import build as build_decoder
from regionstyle.nodes.tinyworld.training.loop import Budget, Trainer
from regionstyle.nodes.tinyworld.training.pool import lone_objects, open_pool
from regionstyle.nodes.tinyworld.training.unet_stage import (
    TextBatch,
    draw_caption,
    noise_weight,
    simple_scenes,
)
from regionstyle.nodes.tinyworld.training.vae_stage import PictureSampler, build, full_state
from regionstyle.nodes.tinyworld.world import scene


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return open_pool(tmp_path_factory.mktemp("run") / "pool", 12)


def test_the_pool_holds_the_scenes(pool):
    made, kept = scene(7), pool.scene(7)
    assert np.abs(made.image - kept.image).max() <= 0.5 / 255 + 1e-6
    assert kept.caption == made.caption
    assert [t.box for t in kept.objects] == [t.box for t in made.objects]
    assert all(np.abs(a.mask - b.mask).max() < 0.01 for a, b in zip(kept.objects, made.objects, strict=True))


def regression(tmp_path, seconds: float, cancel_at: int = 10**9) -> Trainer:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    trainer = Trainer(modules, lambda step: ((modules["line"](x) - y).square().mean(), {}), tmp_path / "state.pt",
                      Budget(seconds / 60), lr=0.05)  # fmt: skip
    trainer.cancelled = lambda: trainer.step >= cancel_at
    return trainer


def test_a_stopped_training_goes_on_where_it_was(tmp_path):
    first = regression(tmp_path, 2.0, cancel_at=25)
    assert first.run() is False
    again = regression(tmp_path, 2.0)
    assert again.step == 25
    assert again.seconds == first.seconds
    for a, b in zip(first.modules.parameters(), again.modules.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.optimizer.state_dict()["state"][0]["step"] == 25
    assert again.run() is True
    stopped, finished = (float(trainer.loss(0)[0].detach()) for trainer in (first, again))
    assert finished < stopped / 4  # how far two seconds go depends on the machine
    assert regression(tmp_path, 2.0).run() is True, "a finished stage does nothing more"


def test_an_error_in_a_step_keeps_the_state(tmp_path):
    trainer = regression(tmp_path, 5.0)
    whole = trainer.loss

    def fail(step):
        if step == 7:
            raise RuntimeError("out of memory")
        return whole(step)

    trainer.loss = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert regression(tmp_path, 5.0).step == 7


def test_the_autoencoder_starts_as_block_means(pool):
    torch.manual_seed(0)
    vae = build()["vae"]
    images = PictureSampler(pool).batch(0, 6)
    with torch.no_grad():
        latents = vae.encode(images).latents
        made = vae.decode(latents).sample
    means = nn.functional.avg_pool2d(images / 2 + 0.5, 8)
    assert torch.corrcoef(torch.stack([latents[:, 0].flatten(), means[:, 0].flatten()]))[0, 1] > 0.95
    assert float(-10 * ((made - images) / 2).square().mean().log10()) > 14


def test_skipped_blocks_are_shipped_as_what_they_computed(pool):
    torch.manual_seed(0)
    modules = build()
    from regionstyle.nodes.tinyworld.networks import new_vae

    whole = new_vae()
    whole.load_state_dict(full_state(modules))
    images = PictureSampler(pool).batch(1, 2)
    with torch.no_grad():
        a = modules["vae"].decode(modules["vae"].encode(images).latents).sample
        b = whole.decode(whole.encode(images).latents).sample
    assert torch.equal(a, b)


def test_a_decoder_is_trained_on_while_its_latents_stay(pool):
    vae = bundled.load_vae()
    images = VariedPictures(pool).batch(2, 2).float()
    latents, made = vae.encode(images).latents, vae.decode(vae.encode(images).latents).sample
    modules = build_decoder(vae)
    assert torch.equal(vae.decode(latents).sample, made), "the last block's start adds nothing"
    loss, numbers = DecoderLoss(vae, pool, size=1)(0)
    loss.backward()
    assert numbers["psnr"] > 15
    assert all(p.grad is not None and p.grad.isfinite().all() for p in modules.parameters())
    assert modules["decoder"].layers[14].conv[-1].weight.grad.any(), "the last block learns"
    assert not any(p.requires_grad for p in vae.encoder.parameters())


def test_captions_state_facts_of_their_pictures(pool):
    for step in range(60):
        pair = draw_pair(pool, np.random.default_rng(step))
        assert pair.stated <= pair.facts, pair.caption
        assert pair.image.shape == (128, 128, 3)
        for prompts in PROMPT_LISTS:
            assert any(fact in pair.facts for fact in prompts.values()), "a list without a true prompt"


def test_classifier_pictures_carry_labels_in_range(pool):
    lone = np.array(lone_objects(pool.facts))
    assert all(len(pool.facts[i]["objects"]) == 1 for i in lone)
    for step in range(60):
        image, labels = draw_labelled(pool, lone, np.random.default_rng(step))
        assert image.shape == (128, 128, 3)
        assert all(0 <= label < len(words) for label, words in zip(labels, LABELS.values(), strict=True))


def test_simple_scenes_show_notched_shapes_twice():
    def fact(ground, *shapes):
        return {"background": ground, "objects": [[shape, "red", [0, 0, 9, 9]] for shape in shapes]}

    facts = [fact("plain", "star"), fact("gradient", "ring"), fact("cat", "ring"), fact("plain", "ring", "star")]
    assert sorted(simple_scenes(facts).tolist()) == [0, 0, 1]
    assert simple_scenes(facts[2:]).tolist() == [0, 1], "all, where none is simple"


def test_noise_weights_rise_with_the_noise_and_are_about_one():
    weights = noise_weight(scheduler().alphas_cumprod)
    assert bool((weights.diff() >= 0).all())
    assert float(weights.max()) == 2.0
    assert 0.8 < float(weights.mean()) < 1.5


def test_list_loss_shares_the_target_between_true_prompts():
    logits = torch.tensor([[30.0, 30.0, 0.0]])
    np.testing.assert_allclose(float(list_loss(logits, torch.tensor([[True, True, False]]))), np.log(2), rtol=1e-5)
    assert float(list_loss(logits, torch.tensor([[False, False, True]]))) > 20


def test_contrastive_loss_knows_several_positives():
    image, text = torch.eye(4), torch.eye(4)
    alone, hit = contrastive_loss(image, text, torch.tensor(20.0), torch.eye(4, dtype=torch.bool))
    assert float(alone) < 1e-6
    assert hit == 1
    wrong, miss = contrastive_loss(image, text.roll(1, 0), torch.tensor(20.0), torch.eye(4, dtype=torch.bool))
    assert float(wrong) > 5
    assert miss == 0
    same = torch.ones(4, 4)
    every, _ = contrastive_loss(same, same, torch.tensor(20.0), torch.ones(4, 4, dtype=torch.bool))
    np.testing.assert_allclose(float(every), np.log(4), rtol=1e-5)


def test_word_groups_point_at_the_words(pool):
    tower, tokenizer = bundled.load_text_tower()
    batch = TextBatch(tower)
    for step in range(40):
        random = np.random.default_rng(step)
        caption = draw_caption(pool.facts[step % len(pool)], random)
        ids, states = batch.states([caption.text])
        groups, valid, weight = batch.groups(ids, [caption])
        assert states.shape == (1, 77, 128)
        for phrase, index in caption.phrases:
            assert weight[0, index] == 1
            found = ids[0][groups[0, index]].tolist()
            assert tokenizer.decode(found).replace("</w>", " ").strip() == phrase
            assert valid[0][groups[0, index]].all()
        assert ((~groups & valid[:, None]).any(-1)).all(), "a group without a rest"


@pytest.mark.parametrize("loss", [focus_loss, cover_loss])
def test_attention_losses_are_least_for_the_mask(loss):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 1
    right, blank = 6 * (mask * 2 - 1), torch.zeros_like(mask)
    assert float(loss(right, mask)) < 0.1 < float(loss(blank, mask)) < float(loss(-right, mask))
    maps = torch.zeros_like(mask, requires_grad=True)
    loss(maps, mask).sum().backward()
    assert (maps.grad[mask == 1] < 0).all()
    assert (maps.grad[mask == 0] > 0).all()
    for nothing in (torch.zeros_like(mask), torch.ones_like(mask)):
        maps = torch.randn_like(mask).requires_grad_()
        value = loss(maps, nothing)
        assert float(value) == 0
        assert float(torch.autograd.grad(value.sum(), maps)[0].abs().max()) == 0
    assert torch.autograd.gradcheck(lambda m: loss(m, mask.double()), torch.randn(1, 1, 8, 8).double().requires_grad_())


@pytest.mark.slow
def test_every_stage_runs_stops_and_ships(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    shutil.copytree(bundled.FOLDER, weights)
    monkeypatch.setattr(bundled, "FOLDER", weights)
    monkeypatch.setattr(bundled, "EXPERTS", weights / "experts")
    monkeypatch.setattr(stages, "POOL_SIZE", 32)
    monkeypatch.setattr(stages, "EXPERT_PICTURES", 24)
    run = stages.Run(tmp_path / "run", torch.device("cpu"))
    for name, file in [("vae", "vae"), ("decoder", "vae"), ("clip", "text"), ("unet", "unet"), ("measure", "clip_text"),
                       ("classifier", "classifier"), ("photo-classifier", "photo_classifier"),
                       ("expert:mosaic", "experts/tinyworld/mosaic")]:  # fmt: skip
        path = weights / f"{file}.safetensors"
        before = path.read_bytes()
        assert stages.run_stage(name, run, 0.02) is True
        assert path.read_bytes() != before, f"stage {name} shipped nothing"
        assert path.stat().st_size < 12 * 2**20
    assert bundled.load_bundled_expert("mosaic").style == "mosaic"


def test_an_unknown_stage_lists_the_known(tmp_path):
    with pytest.raises(RegionStyleError, match="unet"):
        stages.run_stage("gan", stages.Run(tmp_path, torch.device("cpu")), 1)


def test_all_shipped_files_stay_small():
    sizes = {path.name: path.stat().st_size for path in bundled.FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 40 * 2**20
    assert max(sizes.values()) < 12 * 2**20
