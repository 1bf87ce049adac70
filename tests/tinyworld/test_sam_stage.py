"""The tiny Segment Anything: its prompts are about what can be seen, its losses are least for the truth, it learns."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.sam_network import config_of
from regionstyle.nodes.tinyworld import bundled, tiny_sam
from regionstyle.nodes.tinyworld.training import stages
from regionstyle.nodes.tinyworld.training.pool import open_pool
from regionstyle.nodes.tinyworld.training.sam_stage import (
    KINDS,
    SamLoss,
    build,
    dice_loss,
    draw_asks,
    focal_loss,
    mask_iou,
    predict,
)  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return open_pool(tmp_path_factory.mktemp("run") / "pool", 12)


def test_the_network_is_small_and_knows_its_own_size():
    sam = tiny_sam.new_tiny_sam()
    parameters = sum(parameter.numel() for parameter in sam.parameters())
    assert 1.0e6 < parameters < 1.5e6
    assert config_of(sam.state_dict()) == tiny_sam.CONFIG


def test_prompts_are_about_visible_things(pool):
    kinds = set()
    for index in range(len(pool)):
        for ask in draw_asks(pool.scene(index), 0, 12, np.random.default_rng(index)):
            kinds.add(ask.kind)
            rows, columns = np.where(ask.mask > 0.5)
            sides = np.array([np.ptp(columns) + 1, np.ptp(rows) + 1] * 2)
            true = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (np.abs(ask.box - true) <= 0.1 * sides + 1e-3).all()
            assert (ask.labels[0] == -1) == (ask.kind == "box")
            for (x, y), label in zip(ask.points.astype(int), ask.labels, strict=True):
                assert label == -1 or (ask.mask[y, x] > 0.5) == label
    assert kinds == set(KINDS)


def test_losses_are_least_for_the_mask():
    mask = torch.zeros(8, 8)
    mask[2:5, 3:7] = 1
    right, blank = 8 * (mask * 2 - 1), torch.zeros_like(mask)
    for loss in (focal_loss, dice_loss):
        assert float(loss(right, mask)) < 0.05 < float(loss(blank, mask)) < float(loss(-right, mask))
        wanted = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, mask.double()), wanted)
    assert float(mask_iou(right, mask)) == 1
    half = right.clone()
    half[2:5, 5:7] = -8
    assert float(mask_iou(half, mask)) == 0.5


def test_prompts_of_several_pictures_in_one_pass_equal_the_networks_own_answers(pool):
    """The decoder is used in an unusual way while training; it must be the same function."""
    torch.manual_seed(0)
    sam = build()["sam"].eval()
    images, asks = SamLoss(build(), pool, pictures=3).draw(np.random.default_rng(3))
    with torch.no_grad():
        logits, ious = predict(sam, images, asks)
        features = sam.image_encoder(torch.stack([sam.preprocess(image * 255) for image in images]))
        for ask, mine, iou in zip(asks, logits, ious, strict=True):
            points = (torch.from_numpy(ask.points)[None], torch.from_numpy(ask.labels)[None])
            used = {"box": 0, "points": 3}.get(ask.kind, 1)
            used = max(used and 1, int(max((a.labels >= 0).sum() for a in asks if a.kind == ask.kind)))
            sparse, dense = sam.prompt_encoder(
                points=None if ask.kind == "box" else tuple(part[:, :used] for part in points),
                boxes=torch.from_numpy(ask.box)[None] if ask.kind in ("box", "both") else None,
                masks=None,
            )
            one = features[ask.picture : ask.picture + 1]
            true, true_iou = sam.mask_decoder.predict_masks(one, sam.prompt_encoder.get_dense_pe(), sparse, dense)
            torch.testing.assert_close(mine, true[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(iou, true_iou[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_twenty_steps_lower_the_loss(pool):
    torch.manual_seed(0)
    modules = build()
    loss = SamLoss(modules, pool, pictures=4)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=5e-4)
    losses = []
    for step in range(20):
        value, _ = loss(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
def test_the_stage_ships_a_small_file_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(stages, "FOLDER", bundled.FOLDER)
    (bundled.FOLDER / "tokenizer").mkdir(parents=True)
    (bundled.FOLDER / "tokenizer" / "vocab.json").touch()
    monkeypatch.setattr(stages, "POOL_SIZE", 12)
    assert stages.run_stage("sam", stages.Run(tmp_path / "run", torch.device("cpu")), 0.02) is True
    path = bundled.FOLDER / "sams" / "tinyworld" / "sam.safetensors"
    assert path.stat().st_size < 3 * 2**20
    assert config_of(tiny_sam.load_tiny_sam().state_dict()) == tiny_sam.CONFIG
