"""Teaching an expert in real ComfyUI on small random networks of every class, in inference mode as in nodes."""

import math

import pytest
from family_scripts import MODELS, cases

pytestmark = pytest.mark.slow
ALL = ["sd", "v", "sdxl", "sd3", "sd35", "flux", "schnell"]

SCRIPT = (
    MODELS
    + """
import tempfile
from pathlib import Path
import comfy.sd, comfy.utils, node_helpers
from dataclasses import replace
from regionstyle.nodes.engine.attention.supervision import AttentionTarget
from regionstyle.nodes.engine.families.registry import family_of
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.training.comfy import trainable_on_comfy
from regionstyle.nodes.sampler.training.examples import Example, PairDraw, PairExamples
from regionstyle.nodes.sampler.training.expert import ExpertTrainer
from regionstyle.nodes.sampler.training.run import new_expert
from regionstyle.nodes.sampler.training.settings import ExpertTrainSettings

SETTINGS = ExpertTrainSettings(steps=2, batch=2, rate=0.05, rank=2, warmup=0, cover=0.0, focus=0.3)

def family_blocks(network):
    return family_of(network).comfy_blocks_of(network)

def prompt(family, seed):
    length = COMFY_SHAPES[family][0]
    native = family_conditioning(family, seed)
    valid = torch.tensor([[0 < at <= 10 for at in range(length)]])
    return Text(native[0][0], native[0][1]["pooled_output"], [[0] * length], [[""] * length], valid, [native])

def examples_of(family):
    channels, made = COMFY_SHAPES[family][3], []
    for number in range(2):
        mask = torch.zeros(64, 64)
        mask[8:40, 8 + 8 * number:48] = 1
        latent, source = noise(channels, 8, 8, seed=number), noise(channels, 8, 8, seed=7 + number)
        targets = (AttentionTarget("mosaic", (4, 5), mask), AttentionTarget("star", (2, 3), mask))
        area = torch.nn.functional.avg_pool2d(mask[None, None], 8)[0]
        made.append(Example(str(number), str(number), latent, source, area, targets, (), str(number)))
    return PairExamples(made, {str(n): prompt(family, n) for n in range(2)}, "mark")

def draws_of(examples):
    shape = examples.examples[0].latent.shape
    return [PairDraw(one, t, noise(*shape, seed=t)) for one, t in zip(examples.examples, (150, 700))]

def taught(family, settings=SETTINGS):
    model = comfy_model(family)
    before = {name: tensor.clone() for name, tensor in model.model.diffusion_model.state_dict().items()}
    begin = lambda network, name: new_expert(network, name, "mosaic", settings)
    trainable, weights = trainable_on_comfy(model, "x", begin)
    predictor, examples = ComfyPredictor(trainable, None, None, ComfyHost()), examples_of(family)
    x, text = noise(1, COMFY_SHAPES[family][3], 8, 8, seed=3), examples.texts["0"]
    def predicted(patched):
        asked = ComfyPredictor(patched, None, None, ComfyHost())
        with asked.loaded():
            return asked.predict(x, 0.4, text).eps
    plain = predicted(model)
    with predictor.gradients():
        for at, parameter in enumerate(weights.parameters()):
            parameter.data.add_(noise(*parameter.shape, seed=at) * 0.05)
        trainer, draws = ExpertTrainer(predictor, weights.parameters(), examples, settings), draws_of(examples)
        def loss():
            with trainer._around(draws):
                return trainer._losses(draws).sum()
        parameters = list(weights.parameters())
        def slopes():
            with trainer._around(draws):  # the tap stays on until the gradients are there
                return torch.autograd.grad(trainer._losses(draws).sum(), parameters, allow_unused=True)
        made = slopes()
        calls = []
        network = predictor.network
        hooks = [one.register_forward_hook(lambda *_: calls.append(1)) for one in family_blocks(network)]
        with predictor.checkpointed():
            twice = slopes()
        for hook in hooks:
            hook.remove()
        same = [(a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in zip(made, twice)]
        again = slopes()
        quiet = all(a is b or torch.equal(a, b) for a, b in zip(made, again))
        size = torch.sqrt(sum(one.square().sum() for one in made if one is not None))
        way = [torch.zeros_like(p) if one is None else one / size for p, one in zip(parameters, made)]
        ends, h = [], 2e-2
        for sign in (1, -1):
            with torch.no_grad():
                for p, w in zip(parameters, way):
                    p.add_(sign * h * w)
                ends.append(float(loss().double()))
                for p, w in zip(parameters, way):
                    p.sub_(sign * h * w)
        out = {"checkpointed": [all(same), quiet, len(calls), len(hooks)]}
        out |= {"slopes": [float(size), (ends[0] - ends[1]) / (2 * h)]}
        out["steps"] = [trainer.step() for _ in range(2)]
        out["watched"] = len(trainer.watched)
    after = model.model.diffusion_model.state_dict()
    out["network"] = all(torch.equal(before[name], tensor) for name, tensor in after.items())
    out["plain"] = torch.equal(predicted(model), plain)
    own = predicted(trainable)
    file = Path(tempfile.mkdtemp()) / "x.safetensors"
    save_expert(weights.expert(), file)
    lora = comfy.utils.load_torch_file(str(file))
    stock, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    out["stock"] = [far(own, predicted(stock)), far(own, plain)]
    return out

def shown(family):
    settings = replace(SETTINGS, source="shown")
    try:
        out = {"taught": taught(family, settings)}
    except ValueError as error:
        return {"refused": str(error)}
    predictor = ComfyPredictor(comfy_model(family), None, None, ComfyHost())
    x, picture = noise(2, 16, 8, 8, seed=3), noise(2, 16, 8, 6, seed=4)
    text = prompt(family, 0)
    plain = predictor.predict(x, 0.4, text).eps
    with predictor.showing(picture):
        ours, other = predictor.predict_pair(x, 0.4, text, prompt(family, 1))
    given = {"reference_latents": [predictor.model.model.process_latent_out(picture)]}
    native = [node_helpers.conditioning_set_values(text.native[0], given)]
    theirs = predictor.predict(x, 0.4, replace(text, native=native)).eps
    return {**out, "native": [far(ours.eps, theirs), far(ours.eps, plain)]}

def one(family):
    return {"taught": taught(family), "shown": shown(family) if family in ("sd", "sd3", "flux") else {}}

with torch.inference_mode():
    out = {family: one(family) for family in FAMILIES}
print(json.dumps(out))
"""
)


@pytest.fixture(scope="module")
def taught(request):
    """taught(version): what the script says, run once."""
    made = {}

    def once(version):
        if version not in made:
            made[version] = request.getfixturevalue(version)(f"FAMILIES = {ALL!r}\n" + SCRIPT)
        return made[version]

    return once


def check(found):
    gradient, difference = found["slopes"]
    assert gradient > 0
    assert gradient == pytest.approx(difference, rel=2e-2)
    assert all(math.isfinite(loss) for loss in found["steps"])
    assert found["watched"] >= 1
    same, quiet, calls, blocks = found["checkpointed"]
    assert quiet, "gradients differ from run to run, so the next line would say nothing"
    assert same, "with checkpointing, gradients are the same bit for bit"
    assert calls > 1.8 * blocks > 0, "blocks run twice, but for one before the first layer that learns"
    assert found["network"], "only the expert learns"
    assert found["plain"], "the MODEL given is not as before"
    same, effect = found["stock"]
    assert same < 1e-4 < 1e-2 < effect


@pytest.mark.parametrize(("version", "families", "family"), cases(ALL, ALL))
def test_every_class_is_taught_and_the_stock_loader_has_the_same_effect(taught, version, families, family):
    check(taught(version)[family]["taught"])


@pytest.mark.parametrize(("version", "families", "family"), cases(["flux"], ["flux"]))
def test_flux_is_shown_the_picture_before_as_comfyuis_own_node_shows_it(taught, version, families, family):
    found = taught(version)[family]["shown"]
    check(found["taught"])
    same, effect = found["native"]
    assert same < 1e-5 < 1e-3 < effect


@pytest.mark.parametrize(("version", "families", "family"), cases(["sd", "sd3"], ["sd", "sd3"]))
def test_others_cannot_be_shown_a_picture(taught, version, families, family):
    assert "FLUX class (Kontext)" in taught(version)[family]["shown"]["refused"]
