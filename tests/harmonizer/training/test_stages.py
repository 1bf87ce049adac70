"""The three stages: what learns and what stays, going on from a saved state, and stopping."""

import pytest
import torch
from r2r_networks import save_harmony_data, small_networks

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.harmonizer.r2r.architecture import SD, TINY
from regionstyle.nodes.harmonizer.r2r.files import save_r2r
from regionstyle.nodes.harmonizer.r2r.losses import Features
from regionstyle.nodes.harmonizer.training.own_features import unit_latents
from regionstyle.nodes.harmonizer.training.pairs import Pairs
from regionstyle.nodes.harmonizer.training.run import StageState, StageTrainer, train_stage
from regionstyle.nodes.harmonizer.training.settings import R2RTrainSettings
from regionstyle.nodes.harmonizer.training.stages import VaeStage, new_stage
from regionstyle.nodes.harmonizer.training.start import starting_networks

PIXELS = Features(lambda pictures: pictures, "pixels")
LEARNS = {
    "vae": ("vae.decoder.", "vae.filters."),
    "unet": ("unet.",),
    "controller": ("controller.",),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return Pairs.of(save_harmony_data(tmp_path_factory.mktemp("data")))


def settings(**changes):
    return R2RTrainSettings(**{"steps": 2, "batch": 1, "accumulate": 1, "rate": 1e-3, "resolution": 64, **changes})


def trainer_of(name, pairs, host=None, **changes):
    stage = new_stage(name, small_networks(), PIXELS)
    return StageTrainer(stage, pairs, settings(**changes), host or LocalHost("cpu"))


def tensors(networks):
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part in ("vae", "unet", "controller")
        for name, tensor in getattr(networks, part).named_parameters()
    }


LONG = pytest.mark.slow
NAMES = ("vae", pytest.param("unet", marks=LONG), pytest.param("controller", marks=LONG))


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_trains_its_own_network_and_nothing_else(name, pairs):
    trainer = trainer_of(name, pairs)
    before = tensors(trainer.stage.networks)
    grids = []
    losses = train_stage(trainer, on_grid=lambda done, grid: grids.append((done, grid)))
    after = tensors(trainer.stage.networks)
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert all(key.startswith(LEARNS[name]) for key in changed)
    expected = {key for key in before if key.startswith(LEARNS[name]) and "controller.conv_in." not in key}
    assert len(changed) > 0.95 * len(expected)
    assert len(losses) == 2
    assert [done for done, _ in grids] == [2]
    assert grids[0][1].shape == (3, 3 * 64, 4 * 64)


@pytest.mark.slow
def test_training_lowers_the_loss(pairs):
    losses = train_stage(trainer_of("vae", pairs, steps=12, batch=2, rate=2e-3))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_training_goes_on_exactly(name, pairs, tmp_path):
    whole = trainer_of(name, pairs, steps=3)
    train_stage(whole)
    first = trainer_of(name, pairs, steps=1)
    path = tmp_path / "x.train.pt"
    train_stage(first, StageState.of(path, first))
    second = trainer_of(name, pairs, steps=3)
    train_stage(second, StageState.of(path, second), resume=True)
    assert second.losses == pytest.approx(whole.losses, rel=1e-6)
    one, other = tensors(whole.stage.networks), tensors(second.stage.networks)
    assert all(torch.allclose(one[key], other[key], atol=1e-7) for key in one)


def test_a_cancelled_training_keeps_its_state(pairs, tmp_path):
    trainer = trainer_of("vae", pairs, steps=50)
    trainer.host = LocalHost("cpu", cancelled=lambda: trainer.done >= 2)
    state = StageState.of(tmp_path / "x.train.pt", trainer)
    with pytest.raises(Cancelled):
        train_stage(trainer, state)
    again = trainer_of("vae", pairs, steps=50)
    state.load(again)
    assert again.done == 2
    assert again.losses == trainer.losses


def test_a_state_of_other_settings_is_refused_by_name(pairs, tmp_path):
    trainer = trainer_of("vae", pairs)
    state = StageState.of(tmp_path / "x.train.pt", trainer, size="tiny")
    state.save(trainer)
    other = trainer_of("vae", pairs, seed=3, rate=1e-4)
    with pytest.raises(RegionStyleError, match=r"rate 0\.001, not 0\.0001; seed 0, not 3"):
        StageState.of(state.path, other, size="tiny").load(other)
    unet = trainer_of("unet", pairs)
    with pytest.raises(RegionStyleError, match="stage vae, not unet"):
        StageState.of(state.path, unet, size="tiny").load(unet)
    (tmp_path / "x.train.pt").write_bytes(b"nothing")
    with pytest.raises(RegionStyleError, match="resume: got"):
        state.load(trainer)


@pytest.mark.slow
def test_accumulated_batches_and_bfloat16_train(pairs):
    trainer = trainer_of("unet", pairs, steps=1, accumulate=2, precision="bfloat16")
    assert torch.tensor(train_stage(trainer)).isfinite().all()


def test_the_published_defaults():
    usual = R2RTrainSettings()
    assert (usual.rate, usual.batch, usual.epochs) == (1e-5, 4, 5)
    assert [usual.batches(s) for s in LEARNS] == [4, 8, 8]
    assert [usual.side(s) for s in LEARNS] == [256, 512, 512]
    assert usual.total("vae", 65742) == 20545
    with pytest.raises(RegionStyleError, match="resolution"):
        R2RTrainSettings(resolution=100)


def test_the_plain_decoder_leaves_filters_alone(pairs):
    networks = small_networks()
    stage = VaeStage(networks, PIXELS, clear=False)
    before = tensors(networks)
    train_stage(StageTrainer(stage, pairs, settings(steps=1), LocalHost("cpu")))
    changed = {key for key, tensor in tensors(networks).items() if not torch.equal(tensor, before[key])}
    assert changed
    assert not any("filters" in key or "skip_connect" in key or "encoder" in key for key in changed)


def test_scaling_the_latent_changes_no_picture(pairs):
    vae = small_networks().vae
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(picture).posterior.mode())
        unit_latents(vae, pairs, 64, LocalHost("cpu"))
        posterior = vae.encode(picture).posterior
        assert (vae.decode(posterior.mode()) - before).abs().max() < 1e-4


def test_stages_begin_with_what_is_there(tmp_path, pairs):
    networks = small_networks(3)
    save_r2r(networks, tmp_path / "done")
    nowhere = tmp_path / "nowhere"
    start = starting_networks("controller", TINY, 0, [nowhere, tmp_path / "done"])
    assert not start.from_nothing
    assert len(start.told) == 3
    assert torch.equal(start.networks.controller.PCCAs[0].mlp[0].weight, networks.controller.PCCAs[0].mlp[0].weight)
    assert starting_networks("vae", TINY, 0, [nowhere]).from_nothing
    new = tmp_path / "new"
    new.mkdir()
    (tmp_path / "done" / "clear_vae").rename(new / "clear_vae")
    with pytest.raises(RegionStyleError, match="no U-Net in"):
        starting_networks("controller", TINY, 0, [new])
    with pytest.raises(RegionStyleError, match="no Clear-VAE in"):
        starting_networks("vae", SD, 0, [nowhere])
    with pytest.raises(RegionStyleError, match="no Clear-VAE in"):
        starting_networks("unet", TINY, 0, [nowhere])
