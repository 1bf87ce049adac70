"""Training a style expert: the gradients are PEFT's, the file holds what was trained, a stopped training goes on."""

import copy
from dataclasses import replace

import pytest
import torch
from family_models import SHAPES, diffusers_network, diffusers_scheduler, family_inputs

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.init import LAYERS, init_lora
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.training.settings import TrainSettings
from regionstyle.nodes.engine.training.state import StateFile, facts_of, read_state, unfinished
from regionstyle.nodes.router.training.examples import Examples, encode_examples
from regionstyle.nodes.router.training.run import train_style
from regionstyle.nodes.router.training.style import StyleTrainer
from regionstyle.nodes.router.training.style_pictures import Cropping, pictures_of_batch
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.world import restyle_whole, scene

SETTINGS = TrainSettings(steps=4, batch=3, rate=1e-3, rank=2, layers="attention", warmup=0, preview_every=100)


@pytest.fixture(scope="module")
def tiny():
    return load_predictor(LocalHost("cpu"))


@pytest.fixture(scope="module")
def examples(tiny):
    made = [restyle_whole(scene(seed), "oil paint") for seed in range(3)]
    images = torch.stack([torch.from_numpy(one.image).permute(2, 0, 1)[:, 32:96, 32:96] for one in made])
    pictures = pictures_of_batch(images, [one.caption for one in made])
    return encode_examples(tiny, pictures, "oil paint", Cropping(64), 0)


class Training:
    """A trainer with its expert attached to the tiny world, for the length of a `with` block."""

    def __init__(self, tiny, examples, settings=SETTINGS):
        drawn = {"rank": settings.rank, "layers": settings.layers, "seed": settings.seed}
        self.weights = ExpertWeights(init_lora(tiny.network, "x", "oil paint", **drawn)).requires_grad_(True)
        self.predictor, self.examples, self.settings = tiny, examples, settings
        self.stack = ExpertStack(tiny.network, [self.weights])

    def __enter__(self):
        self.stack.attach().set(Gates({"x": 1.0}))
        self.trainer = StyleTrainer(self.predictor, self.weights.parameters(), self.examples, self.settings)
        return self

    def __exit__(self, *error):
        self.stack.detach()

    def run(self, path, *, host=None, resume=False):
        """`train_style` with the state in a file."""
        predictor = copy.copy(self.predictor)
        predictor.host = host or self.predictor.host
        state = StateFile(path, facts_of(self.settings, self.examples.mark))
        return train_style(predictor, self.weights, self.examples, self.settings, state, resume=resume)


def draws(examples, count=8):
    return [examples.draw(99, number) for number in range(count)]


def test_a_init_lora_does_nothing_and_covers_the_layers(tiny):
    for name, ends in LAYERS.items():
        expert = init_lora(tiny.network, "x", "s", rank=2, layers=name, seed=0)
        assert all(path.endswith(ends) for path in expert.layers)
        assert all(not layer.up.any() and layer.down.any() for layer in expert.layers.values())
    assert len(expert.layers) == 100
    assert {"down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in"} <= set(expert.layers)


def test_the_initialisation_is_pefts(tiny):
    layer = init_lora(tiny.network, "x", "s", rank=64, layers="attention", seed=0).layers[
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    ]
    theirs = torch.nn.Linear(layer.down.shape[1], 64).weight  # PEFT leaves Linear's own initialisation, a = sqrt(5)
    bound = layer.down.shape[1] ** -0.5
    assert layer.down.abs().max() <= bound
    assert layer.down.std() == pytest.approx(float(theirs.detach().std()), rel=0.05)


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_the_gradients_are_pefts(tiny, examples, layers):
    from peft import LoraConfig

    chosen = draws(examples)
    with Training(tiny, examples, replace(SETTINGS, layers=layers)) as ours:
        torch.manual_seed(5)
        for parameter in ours.weights.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
        loss, gradients = ours.trainer._summed(chosen, 8)
        scale, expert = ours.trainer.scale, ours.weights.expert()
    unet = copy.deepcopy(tiny.network)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(expert.layers)))
    theirs = []
    for path, layer in expert.layers.items():
        module = unet.get_submodule(path)
        for part, tensor in ((module.lora_A, layer.down), (module.lora_B, layer.up)):
            part["default"].weight.data.copy_(tensor.reshape(part["default"].weight.shape))
            theirs.append(part["default"].weight)
    predictor = copy.copy(tiny)
    predictor.unet = predictor.network = unet
    predictor._denoiser = copy.copy(tiny._denoiser)
    predictor._denoiser.network = unet
    other = StyleTrainer(predictor, theirs, examples, SETTINGS)
    expected, wanted = other._summed(chosen, 8)
    assert loss == pytest.approx(expected, rel=1e-5)
    for mine, their in zip(gradients, wanted, strict=True):
        assert (mine / scale).reshape(their.shape).sub(their / other.scale).norm() <= 1e-3 * (
            their / other.scale
        ).norm()


def test_checkpointing_gives_the_same_gradients(tiny, examples):
    with Training(tiny, examples) as training:
        for parameter in training.weights.parameters():
            parameter.data.add_(0.01)
        _, plain = training.trainer._summed(draws(examples), 8)
        tiny.network.enable_gradient_checkpointing()
        tiny.network.train()
        try:
            _, again = training.trainer._summed(draws(examples), 8)
        finally:
            tiny.network.disable_gradient_checkpointing()
            tiny.network.eval()
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(a.abs().max())) for a, b in zip(plain, again, strict=True)
    )


class OneBatch(Examples):
    """Gives the same six samples in every step."""

    def draw(self, seed, number):
        return super().draw(seed, number % 6)


def test_the_loss_on_a_fixed_batch_falls(tiny, examples):
    settings = replace(SETTINGS, steps=12, batch=6, rank=8, layers="all", rate=3e-3)
    with Training(tiny, OneBatch(**vars(examples)), settings) as training:
        losses = [training.trainer.step() for _ in range(settings.steps)]
    assert losses[-1] < 0.75 * losses[0]


def test_the_file_holds_the_trained_network(tiny, examples, tmp_path):
    x, text = torch.randn(2, 4, 8, 8), tiny.encode_text(["a red star in oil paint style"])

    def eps():
        with torch.no_grad():
            return tiny.predict(x, 0.4, text).eps

    base = eps()
    with Training(tiny, examples, replace(SETTINGS, rate=0.02, layers="all")) as training:
        made = training.run(tmp_path / "x.train.pt")
        trained = eps()
    assert torch.equal(eps(), base), "the network is not as before"
    assert (trained - base).abs().max() > 1e-2
    for layout in ("kohya", "diffusers"):
        save_expert(made.expert, tmp_path / "x.safetensors", layout=layout)
        read = load_expert(tmp_path / "x.safetensors")
        assert (read.name, read.style) == ("x", "oil paint")
        with ExpertStack(tiny.network, [read]) as stack:
            stack.set(Gates({"x": 1.0}))
            assert (eps() - trained).abs().max() < 1e-4
    assert len(made.losses) == 4
    assert made.frames[-1].shape == (3, 64, 64)


def test_diffusers_reads_the_file(tiny, examples, tmp_path):
    """Both layouts, through diffusers' own loader, have the same effect."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    with Training(tiny, examples, replace(SETTINGS, rate=0.02, layers="all")) as training:
        training.trainer.step()
        training.trainer.step()
        x, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 128)
        with torch.no_grad():
            wanted = tiny.network(x, 300, states).sample
        expert = training.weights.expert()
    for layout in ("kohya", "diffusers"):
        save_expert(expert, tmp_path / "x.safetensors", layout=layout)
        state, alphas = Loader.lora_state_dict(str(tmp_path / "x.safetensors"), local_files_only=True)
        unet = copy.deepcopy(tiny.network)
        Loader.load_lora_into_unet(state, alphas, unet)
        with torch.no_grad():
            assert (unet(x, 300, states).sample - wanted).abs().max() < 1e-4


def cancelling(after):
    """A host whose user cancels after a number of finished steps."""
    done = []
    return LocalHost(
        "cpu", on_progress=lambda label, at, total, preview: done.append(at), cancelled=lambda: len(done) >= after
    )


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tiny, examples, tmp_path, stop):
    path = tmp_path / "x.train.pt"
    with Training(tiny, examples) as training:
        whole = training.run(tmp_path / "whole.train.pt")
    with Training(tiny, examples) as training:
        with pytest.raises(Cancelled):
            training.run(path, host=cancelling(stop))
        assert read_state(path)["done"] == stop
        assert unfinished(path)
    with Training(tiny, examples) as training:
        resumed = training.run(path, resume=True)
    assert not unfinished(path)
    assert resumed.losses == whole.losses
    for name, layer in whole.expert.layers.items():
        assert torch.equal(layer.up, resumed.expert.layers[name].up)
        assert torch.equal(layer.down, resumed.expert.layers[name].down)
        assert layer.up.any()


def test_a_training_that_diverges_keeps_its_last_good_state(tiny, examples, tmp_path, monkeypatch):
    path, update = tmp_path / "x.train.pt", StyleTrainer._update

    def diverging(self):
        update(self)
        if self.done == 3:
            with torch.no_grad():
                self.parameters[0].fill_(float("inf"))

    monkeypatch.setattr(StyleTrainer, "_update", diverging)
    said = "weights that are no numbers at step 3.*diverged.*last good state is .*x.train.pt"
    chosen = replace(SETTINGS, steps=4, preview_every=2)
    with Training(tiny, examples, chosen) as training, pytest.raises(RegionStyleError, match=said):
        training.run(path)
    assert read_state(path)["done"] == 2


def test_another_seed_is_another_expert(tiny, examples, tmp_path):
    made = []
    for seed in (0, 1):
        with Training(tiny, examples, replace(SETTINGS, steps=1, seed=seed)) as training:
            made.append(training.run(tmp_path / "x.train.pt").losses)
    assert made[0] != made[1]


def test_a_state_of_another_training_is_refused(tiny, examples, tmp_path):
    path = tmp_path / "x.train.pt"
    short = replace(SETTINGS, steps=1)
    with Training(tiny, examples, short) as training:
        training.run(path)
    for changed, part in (
        (replace(short, rank=4), "rank 2"),
        (replace(short, rate=1e-2), "rate 0.001"),
        (replace(short, seed=3), "seed 0"),
    ):
        with Training(tiny, examples, changed) as training, pytest.raises(RegionStyleError, match=part):
            training.run(path, resume=True)
    others = replace(examples, mark="other")
    with Training(tiny, others, short) as training, pytest.raises(RegionStyleError, match="pictures and captions"):
        training.run(path, resume=True)
    with Training(tiny, examples, short) as training:
        with pytest.raises(RegionStyleError, match="no file"):
            training.run(tmp_path / "none.pt", resume=True)
        (tmp_path / "bad.pt").write_bytes(b"nothing")
        with pytest.raises(RegionStyleError, match="cannot be read"):
            training.run(tmp_path / "bad.pt", resume=True)


def test_more_steps_may_be_added(tiny, examples, tmp_path):
    path = tmp_path / "x.train.pt"
    with Training(tiny, examples, replace(SETTINGS, steps=1)) as training:
        training.run(path)
    with Training(tiny, examples, replace(SETTINGS, steps=2)) as training:
        assert len(training.run(path, resume=True).losses) == 2


def test_a_batch_without_room_is_halved_and_gives_the_same(tiny, examples):
    with Training(tiny, examples) as training:
        plain = training.trainer.step()
        expected = [p.detach().clone() for p in training.weights.parameters()]
    small = copy.copy(tiny)

    def predict(x, *rest):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tiny.predict(x, *rest)

    small.predict = predict
    with Training(small, examples) as training:
        assert training.trainer.step() == pytest.approx(plain, rel=1e-5)
        assert training.trainer.at_once == 1
        for mine, their in zip(training.weights.parameters(), expected, strict=True):
            assert torch.allclose(mine, their, atol=2e-5)


def test_accumulation_gives_the_same(tiny, examples):
    """Compared are gradients: the first step of Adam is the same whatever their size."""
    losses, gradients = [], []
    for parts in (1, 3):
        with Training(tiny, examples, replace(SETTINGS, accumulate=parts)) as training:
            assert training.trainer.at_once == 3 // parts
            losses.append(training.trainer._accumulated(draws(examples, 3), training.trainer.at_once))
            gradients.append([p.grad for p in training.weights.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all((one - other).norm() <= 1e-4 * one.norm() for one, other in zip(*gradients, strict=True))
    assert any(one.any() for one in gradients[0])


def test_gradients_beyond_the_number_format_lower_the_scale(tiny, examples):
    """A network in half precision: a loss scaled too high gives infinite gradients, one scaled too low loses them."""
    half = copy.copy(tiny)

    def predict(x, *rest):
        made = tiny.predict(x, *rest)
        return replace(made, eps=made.eps.half().float())

    half.predict = predict
    with Training(half, examples) as training:
        training.trainer.step()
        expected = [p.detach().clone() for p in training.weights.parameters()]
    with Training(half, examples) as training:
        usual, training.trainer.scale = training.trainer.scale, 2.0**30
        training.trainer.step()
        assert usual < training.trainer.scale < 2.0**28
        for mine, their in zip(training.weights.parameters(), expected, strict=True):
            assert torch.allclose(mine, their, atol=2e-5)


def test_a_loss_that_is_no_number_is_one_clear_error(tiny, examples):
    with Training(tiny, examples) as training:
        for parameter in training.weights.parameters():
            parameter.data.fill_(float("nan"))
        with pytest.raises(RegionStyleError, match="learning rate"):
            training.trainer.step()


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_every_family_learns_and_stays(family):
    """One step on a small random network: the expert moves, the network does not."""
    network, (x, states, pooled) = diffusers_network(family), family_inputs(family, 1, (8, 8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predictor = DiffusersPredictor.__new__(DiffusersPredictor)
    made = DiffusersPredictor(network, FakeVae(), None, None, diffusers_scheduler(family), LocalHost("cpu"))
    predictor.__dict__.update(made.__dict__)
    length = SHAPES[family][0]
    text = Text(states, pooled, [[0] * length], [[""] * length], torch.ones(1, length, dtype=torch.bool))
    examples = Examples([x] * 3, [text] * 3, ["p"] * 3, text, "m")
    weights = ExpertWeights(init_lora(network, "x", "s", rank=2, layers="all", seed=0)).requires_grad_(True)
    with ExpertStack(network, [weights]) as stack:
        stack.set(Gates({"x": 1.0}))
        trainer = StyleTrainer(predictor, weights.parameters(), examples, replace(SETTINGS, rate=0.1))
        first = trainer.step()
        assert trainer.step() != first
    assert all(layer.layer().up.any() for _, layer in weights.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class FakeVae:
    """What a predictor asks of an autoencoder that is not used here."""

    class config:  # noqa: N801
        block_out_channels = (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"rate": 0.0}, "learning_rate"),
        ({"rate": float("nan")}, "learning_rate"),
        ({"accumulate": 9}, "accumulate"),
        ({"seed": -1}, "seed"),
        ({"rank": 0}, "rank"),
    ],
)
def test_wrong_settings_are_refused(change, part):
    with pytest.raises(RegionStyleError, match=part):
        replace(SETTINGS, **change)


def test_wrong_layers_and_networks_are_refused(tiny):
    with pytest.raises(RegionStyleError, match="layers"):
        init_lora(tiny.network, "x", "s", rank=2, layers="none", seed=0)
    with pytest.raises(RegionStyleError, match="another family"):
        init_lora(torch.nn.Linear(2, 2), "x", "s", rank=2, layers="all", seed=0)
