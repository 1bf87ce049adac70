"""Distillation: it goes on exactly where it was stopped, what it draws, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from sms_networks import sms_predictor

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.engine.settings.setting import LARGEST_SEED
from regionstyle.nodes.sms.fake import NAME
from regionstyle.nodes.sms.generator.network import new_generator
from regionstyle.nodes.sms.generator.pictures import PictureBatch, PictureFiles, draw_crop, validation_crops
from regionstyle.nodes.sms.generator.run import _identity, distill
from regionstyle.nodes.sms.generator.training import Distiller, keep_in_range
from regionstyle.nodes.sms.score import Prompts
from regionstyle.nodes.sms.settings import DistillSettings, SmsSettings
from regionstyle.nodes.tinyworld.world import scene

SIZE = 32


def pictures():
    return PictureBatch(torch.stack([torch.from_numpy(scene(at).image).permute(2, 0, 1) for at in (1, 2)]))


def settings(warm_up=2, iterations=4, **more):
    options = {"architecture": "tiny", "copies": 2, "size": SIZE, **more}
    return DistillSettings(SmsSettings(iterations=iterations, rate=1e-3, preview_every=2), warm_up=warm_up, **options)


def run(host=None, state=None, seen=None, chosen=None, style="mosaic"):
    predictor = sms_predictor(torch.float32, host)
    fake = [p.requires_grad_(True) for p in predictor.experts.parameters(NAME)]
    noted = (lambda done, inputs, results: seen.append((done, inputs, results))) if seen is not None else None
    more = {"on_validation": noted} if noted else {}
    return distill(
        predictor, pictures(), "", style, {"style": 0.8}, fake, chosen or settings(), state=state, **more
    )  # fmt: skip


def stopping_after(steps):
    def stop(label, done, total, preview):
        if done == steps:
            raise Cancelled

    return LocalHost("cpu", on_progress=stop)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.slow
def test_a_stopped_training_goes_on_exactly(tmp_path):
    """Stopped in the warm-up, then in SMS: the result is that of one run, bit for bit."""
    state, seen = tmp_path / "made.train.pt", []
    whole = run(seen=seen)
    assert [done for done, _, _ in seen] == [0, 1, 2, 3, 4, 5, 6]
    assert seen[0][1].shape == seen[0][2].shape == (2, 3, SIZE, SIZE)
    for steps in (1, 4):
        with pytest.raises(Cancelled):
            run(stopping_after(steps), state)
        assert torch.load(state, weights_only=True)["iteration"] == steps
    again = run(state=state)
    assert same(again.generator.network, whole.generator.network)
    assert again.history == whole.history
    assert len(whole.history.fake) == 6
    assert whole.generator.style == "mosaic"
    assert not same(whole.generator.network, new_generator("tiny", 0))


def test_a_state_of_other_settings_or_kind_is_refused(tmp_path):
    state = tmp_path / "made.train.pt"
    with pytest.raises(Cancelled):
        run(stopping_after(1), state)
    with pytest.raises(RegionStyleError, match="style 'mosaic', not 'neon'"):
        run(state=state, style="neon")
    with pytest.raises(RegionStyleError, match="copies 2, not 3"):
        run(state=state, chosen=settings(copies=3))
    told = [_identity(settings(), "mosaic", "", captions)["captions"] for captions in ([], ["a"], ["a", "b"])]
    assert told[0] == ""
    assert len(set(told)) == 3
    state.write_bytes(b"nothing")
    with pytest.raises(RegionStyleError, match="made.train.pt"):
        run(state=state)


def test_the_warm_up_learns_to_give_back_the_input():
    made = run(chosen=settings(warm_up=25, iterations=2))
    errors = made.history.content[:25]
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])
    assert made.history.style[24] == 0
    assert made.history.style[25] > 0


def test_the_largest_seed_trains():
    sms = SmsSettings(iterations=2, rate=1e-3, preview_every=2, seed=LARGEST_SEED)
    chosen = DistillSettings(sms, "tiny", copies=2, warm_up=1, size=SIZE)
    made = run(chosen=chosen)
    assert len(made.history.style) == 3
    assert made.history.style != run(chosen=replace(chosen, sms=replace(sms, seed=0))).history.style


def test_one_iteration_is_the_formula():
    """The generator's gradient: mean over the copies of style and spectrum loss, through the autoencoder."""
    predictor = sms_predictor(torch.float32)
    fake = [p.requires_grad_(True) for p in predictor.experts.parameters(NAME)]
    chosen = settings(warm_up=0)
    prompts = Prompts.of(predictor, [""], "mosaic", chosen.sms.preset)
    generator = new_generator("tiny")
    distiller = Distiller(predictor, pictures(), prompts, {"style": 0.8}, fake, generator, chosen)
    random = torch.Generator().manual_seed(0)
    image = draw_crop(pictures(), SIZE, random)
    source = predictor.encode(image).detach().repeat(2, 1, 1, 1)
    latent = predictor.encode(keep_in_range(generator(image))).repeat(2, 1, 1, 1)
    times, noise = distiller.score.draw("narrowing", 0.0, latent, random)
    assert times.unique().numel() == 2
    assert not torch.equal(noise[0], noise[1])
    losses = distiller.score.losses(latent, source, times, noise)
    wanted = (losses.style + losses.content).mean() * latent[0].numel()
    gradients = torch.autograd.grad(wanted, list(generator.parameters()))
    distiller._update = lambda: None
    distiller.step()
    for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-9)


def test_the_range_lets_values_back_in():
    images = torch.tensor([-0.5, 0.5, 1.5, -0.5, 1.5], requires_grad=True)
    kept = keep_in_range(images)
    assert kept.tolist() == [0.0, 0.5, 1.0, 0.0, 1.0]
    (gradient,) = torch.autograd.grad(kept, images, torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0]))
    assert gradient.tolist() == [0.0, 1.0, 0.0, -1.0, 1.0]


def save(path, size=(40, 30), colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_is_read_with_its_subfolders(tmp_path, caplog):
    save(tmp_path / "b.png")
    save(tmp_path / "deep" / "er" / "a.JPG", (64, 48))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    found = PictureFiles.below(tmp_path)
    assert [path.name for path in found.paths] == ["b.png", "broken.png", "a.JPG"]
    random = torch.Generator().manual_seed(0)
    for _ in range(12):
        crop = draw_crop(found, 32, random)
        assert crop.shape == (1, 3, 32, 32)
        assert float(crop[0, 0].mean()) > 0.7
    assert validation_crops(found, 16).shape == (2, 3, 16, 16)
    assert [record.message.count("broken.png") for record in caplog.records] == [2]  # said once, path and reason
    with pytest.raises(RegionStyleError, match="broken.png"):
        validation_crops(PictureFiles.below(tmp_path, strict=True), 16)


def test_captions_stand_beside_the_pictures(tmp_path, monkeypatch):
    """Each picture is told apart by its own words; one without a file has the training's caption."""
    for name, words in (("a.png", "a red  ball\n"), ("b.png", None)):
        save(tmp_path / name)
        if words:
            (tmp_path / name).with_suffix(".txt").write_text(words)
    found, asked = PictureFiles.below(tmp_path), []
    assert [found.caption(index) for index in range(2)] == ["a red ball", ""]
    predictor = sms_predictor(torch.float32)
    fake = [p.requires_grad_(True) for p in predictor.experts.parameters(NAME)]
    plain = Distiller._distil

    def watched(self, images, random):
        asked.append(self.score.prompts.style)
        return plain(self, images, random)

    monkeypatch.setattr(Distiller, "_distil", watched)
    chosen = settings(warm_up=0, iterations=8)
    distill(predictor, found, "a thing", "mosaic", {"style": 0.8}, fake, chosen)
    known = {w: predictor.encode_text([f"mosaic, {w}"]).states for w in ("a red ball", "a thing")}
    drawn = [next(w for w, states in known.items() if torch.equal(states, text.states)) for text in asked]
    assert set(drawn) == set(known)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RegionStyleError, match=r"a.txt.*UTF-8"):
        PictureFiles.below(tmp_path).caption(0)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(RegionStyleError, match="holds none"):
        PictureFiles.below(tmp_path)
    with pytest.raises(RegionStyleError, match="no such folder"):
        PictureFiles.below(tmp_path / "absent")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    for read in (draw_crop, lambda found, size, random: validation_crops(found, size)):
        with pytest.raises(RegionStyleError, match="None of them"):
            read(PictureFiles.below(tmp_path), 16, torch.Generator())


def test_crops_reach_every_part_of_a_picture():
    ramp = torch.linspace(0, 1, 90).expand(3, 40, 90)
    random, means = torch.Generator().manual_seed(0), []
    for _ in range(60):
        means.append(float(draw_crop(PictureBatch(ramp[None]), 16, random).mean()))
    assert min(means) < 0.25
    assert max(means) > 0.75


def test_wrong_settings_are_named():
    with pytest.raises(RegionStyleError, match="'huge'.*tiny"):
        DistillSettings(architecture="huge")
    with pytest.raises(RegionStyleError, match="copies"):
        DistillSettings(copies=0)
    with pytest.raises(RegionStyleError, match="tolerance"):
        DistillSettings(SmsSettings(tolerance=0.1))
    with pytest.raises(RegionStyleError, match="size: got 30, expected a multiple of 8"):
        run(chosen=settings(size=30))
    with pytest.raises(RegionStyleError, match="style"):
        run(style="  ")


def test_a_state_lies_there_while_it_trains(tmp_path):
    """What `kill -9` leaves: the state of the last preview, whole."""
    state, found = tmp_path / "made.train.pt", {}

    def look(label, done, total, preview):
        found[done] = torch.load(state, weights_only=True)["iteration"] if state.is_file() else None

    run(LocalHost("cpu", on_progress=look), state, chosen=settings(warm_up=4, iterations=2))
    assert found == {0: None, 1: None, 2: 2, 3: 2, 4: 4, 5: 4, 6: 6}


def test_a_training_that_diverges_keeps_its_last_good_state(tmp_path, monkeypatch):
    state, update = tmp_path / "made.train.pt", Distiller._update

    def diverging(self):
        update(self)
        if self.iteration == 3:
            with torch.no_grad():
                next(self.generator.parameters()).mul_(float("inf"))

    monkeypatch.setattr(Distiller, "_update", diverging)
    said = "weights that are no numbers at step 4.*diverged.*last good state is .*pt"
    with pytest.raises(RegionStyleError, match=said):
        run(state=state, chosen=settings(warm_up=6, iterations=2))
    kept = torch.load(state, weights_only=True)
    assert kept["iteration"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in kept["generator"].values())


@pytest.mark.parametrize(
    "lost", ["settings", "iteration", "generator", "optimizer", "fake", "fake_optimizer", "history"]
)
def test_a_state_that_lacks_something_is_one_sentence(tmp_path, lost):
    state = tmp_path / "made.train.pt"
    with pytest.raises(Cancelled):
        run(stopping_after(1), state)
    saved = torch.load(state, weights_only=True)
    del saved[lost]
    torch.save(saved, state)
    with pytest.raises(RegionStyleError, match=f"state: got .*made.train.pt, which lacks {lost}"):
        run(state=state)
