"""Routing on ComfyUI MODELs, inside ComfyUI's interpreter: one pass, beside ordinary LoRAs, and no trace afterwards."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.sample, comfy.sd, comfy.supported_models, comfy.utils
from comfy.patcher_extension import WrappersMP
from regionstyle.nodes.engine.adapters.comfy import attached_experts, attached_gates
from dataclasses import replace
from regionstyle.nodes.engine.region.regions import Regions, missing_region, region_of
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.router.comfy.routing import by_prompt, by_regions, stacked
from regionstyle.nodes.router.comfy.prompts import regional_prompts
from regionstyle.nodes.router.comfy.gate_folders import load, register_folder
from regionstyle.nodes.router.settings import NoiseRange
from regionstyle.nodes.router.comfy.routing_nodes import RouteByPrompt
from regionstyle.nodes.engine.lora.style_key import style_slug
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny, bundled

tiny.register_experts()
register_folder()
ALL = NoiseRange()

def sample(model, clip, steps=3, cfg=4.0):
    encode = lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))
    latent = torch.zeros(1, 4, 16, 16)
    return comfy.sample.sample(model, noise(1, 4, 16, 16), steps, cfg, "euler", "normal", encode("a picture"),
                               encode("a star"), latent, disable_pbar=True, seed=0)

def left_right():
    halves = torch.zeros(2, 128, 128)
    halves[0, :, :64], halves[1, :, 64:] = 1, 1
    items = [region_of(name, mask, style=style) for name, mask, style in zip(("a", "b"), halves, ("mosaic", "neon"))]
    return halves, Regions(tuple(items), 128, 128)

def counted(model):
    '''A clone that counts the calls of its network.'''
    calls, model = [], model.clone()
    def see(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", see)
    return model, calls

def merged(model, style):
    lora = comfy.utils.load_torch_file(str(bundled.expert_path(style)))
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]

result = {}
with torch.inference_mode():
    model, clip = tiny.load_model(), tiny.load_clip()
    experts = None
    for style in ("mosaic", "neon", "watercolor"):
        experts = stacked(experts, f"tinyworld/{style}.safetensors", "", "", 1.0)
    halves, regions = left_right()
    before = sample(model, clip)

    routed, notice = by_regions(model, experts, regions, 0, ALL)
    result["notice"] = notice
    result["loaded"] = [one.name for one in attached_experts(routed)]
    by_hand = model
    for style, mask in zip(("mosaic", "neon"), halves):
        by_hand, _ = attach(by_hand, f"tinyworld/{style}.safetensors", 1.0, mask)
    made = sample(routed, clip)
    result["by_hand"] = far(made, sample(by_hand, clip))
    result["change"] = far(made, before)
    plain_counted, plain_calls = counted(model)
    sample(plain_counted, clip)
    routed_counted, routed_calls = counted(routed)
    sample(routed_counted, clip)
    result["calls"] = [len(plain_calls), len(routed_calls)]
    result["after"] = torch.equal(sample(model, clip), before)
    result["again"] = torch.equal(sample(routed, clip), made)

    beside, _ = by_regions(merged(model, "watercolor"), experts, regions, 0, ALL)
    after, before_lora = sample(beside, clip), sample(merged(model, "watercolor"), clip)
    result["beside"] = far(sample(merged(routed, "watercolor"), clip), after)
    result["both"] = [far(after, made), far(after, before_lora)]

    # Euler's first half without experts, then with them.
    late, _ = by_regions(model, experts, regions, 0, NoiseRange(0.5, 1.0))
    early, _ = by_regions(model, experts, regions, 0, NoiseRange(0.0, 0.5))
    never, _ = by_regions(model, experts, regions, 0, NoiseRange(0.6, 0.9))  # its steps: 0, 0.5 and 1
    one_step = {name: sample(m, clip, 1) for name, m in dict(all=routed, late=late, early=early, plain=model).items()}
    result["late"] = torch.equal(one_step["late"], one_step["plain"])
    result["early"] = torch.equal(one_step["early"], one_step["all"])
    result["never"] = torch.equal(sample(never, clip), before)
    result["part"] = [far(sample(late, clip), other) for other in (before, made)]

    named, weights = by_prompt(model, None, experts, "a star in neon style", None, ALL)
    result["weights"] = weights
    result["named"] = far(sample(named, clip), sample(attach(model, "tinyworld/neon.safetensors", 1.0, None)[0], clip))
    near, weights = by_prompt(model, clip, experts, "mosaic", (1, 0.05, 0.5), ALL)
    result["near"] = weights
    seven = None
    for style in reversed(bundled.expert_files()):  # in another order than the gate's
        seven = stacked(seven, f"tinyworld/{style_slug(style)}.safetensors", "", "", 1.0)
    gate = load("tinyworld/styles.safetensors")
    result["workflows"] = {}
    for name in ("prompt_routed_styles", "learnt_gate_styles"):
        with open(os.path.join(os.environ["REGIONSTYLE_TEST_PACK"], "workflows", "api", name + ".json")) as file:
            nodes = list(json.load(file).values())
        inputs = lambda kind: [node["inputs"] for node in nodes if node["class_type"] == kind]
        shipped_stack = None
        for one in inputs("RegionStyleExpertStack"):
            shipped_stack = stacked(shipped_stack, one["expert"], one["name"], one["phrases"], one["strength"])
        (set_up,), (prompt,) = inputs("RegionStyleRouteByPrompt"), inputs("PrimitiveStringMultiline")
        soft = gate if set_up["mode"] == "learnt gate" else tuple(set_up[k] for k in ("top_k", "temperature", "floor"))
        result["workflows"][name] = by_prompt(model, clip, shipped_stack, prompt["value"], soft, ALL)[1]
    learnt, weights = by_prompt(model, clip, seven, "a red star in neon style", gate, ALL)
    result["learnt"] = [weights, [one.name for one in attached_experts(learnt)]]
    result["learnt change"] = far(sample(learnt, clip), before)
    plain, weights = by_prompt(model, None, experts, "a star", None, ALL)
    result["plain"] = [torch.equal(sample(plain, clip), before), weights]

    def prompted(mode, prompt="a star in mosaic style, neon"):
        patched, positive, notice = regional_prompts(routed, clip, prompt, "a {phrase} in {style} style", mode)
        encode = lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))
        out = comfy.sample.sample(patched, noise(1, 4, 16, 16), 2, 4.0, "euler", "normal", positive, encode("a star"),
                                  torch.zeros(1, 4, 16, 16), disable_pbar=True, seed=0)
        return out, positive, notice

    own, positive, notice = prompted("own prompts", "a picture")
    result["prompts"] = [notice, positive[0][0].shape[1]]
    words, positive, notice = prompted("own words")
    shared, _, _ = prompted("shared")
    result["words"] = [notice, positive[0][0].shape[1], far(words, shared), far(own, words)]
    encode = lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))
    plain_prompt = comfy.sample.sample(routed, noise(1, 4, 16, 16), 2, 4.0, "euler", "normal",
        encode("a star in mosaic style, neon"), encode("a star"), torch.zeros(1, 4, 16, 16), disable_pbar=True, seed=0)
    result["shared"] = torch.equal(shared, plain_prompt)
    result["after_prompts"] = torch.equal(sample(routed, clip), made)
    patched, positive, _ = regional_prompts(routed, clip, "a picture", "a {phrase} in {style} style", "own prompts")

    empty = Regions(tuple(missing_region(f"the {r.phrase}", (128, 128), style=r.style) for r in regions), 128, 128)
    lost, notice = by_regions(model, experts, empty, 0, ALL)
    unfound, positive, told = regional_prompts(lost, clip, "a picture", "a {phrase} in {style} style", "own prompts")
    result["lost"] = [notice, told, positive[0][0].shape[1], torch.equal(sample(unfound, clip), before)]
    def at_strength(mosaic, neon):
        stack = stacked(None, "tinyworld/mosaic.safetensors", "", "", mosaic)
        stack = stacked(stack, "tinyworld/neon.safetensors", "", "", neon)
        switched, notice = by_regions(model, stack, regions, 0, ALL)
        patched, positive, told = regional_prompts(switched, clip, "a picture", "a {phrase} in {style}", "own prompts")
        return notice, told, positive[0][0].shape[1]
    result["zero"] = [at_strength(0.0, 1.0), at_strength(0.0, 0.0)]
    one, other = (Regions((r,), 128, 128) for r in (regions.items[0], replace(regions.items[1], style="mosaic")))
    at = lambda strength: stacked(None, "tinyworld/mosaic.safetensors", "", "", strength)
    first = by_regions(model, at(1.0), one, 0, ALL)[0]
    twice = [by_regions(first, at(0.0), other, 0, ALL)[0],
             by_regions(by_regions(model, at(0.0), other, 0, ALL)[0], at(1.0), one, 0, ALL)[0]]
    told = [regional_prompts(m, clip, "a picture", "a {phrase} in {style} style", "own prompts")
            for m in (first, *twice)]
    result["twice routed"] = [[line, positive[0][0].shape[1]] for m, positive, line in told[1:]]
    result["owned"] = [torch.equal(attached_gates(m).values["mosaic"].visible_tokens,
                                   attached_gates(told[0][0]).values["mosaic"].visible_tokens) for m, _, _ in told[1:]]
    named = Regions(tuple(replace(r, phrase=f"the {r.phrase}") for r in regions), 128, 128)
    result["article"] = regional_prompts(by_regions(model, experts, named, 0, ALL)[0], clip, "a picture",
                                         "a {phrase} in {style} style", "own prompts")[2]

    class Other(torch.nn.Module):
        pass

    numbers = 2, 0.05, 0.5, 0.0, 1.0
    shape = dict(max_seq=64, n_layers=2, n_double_layers=1, dim=32, n_heads=2, cond_seq_dim=16)
    other = comfy.supported_models.AuraFlow(shape)
    other.set_inference_dtype(torch.float32, None)
    aura = patcher_of(other.get_model({}, ""))
    strange = type("Strange", (), {"model": type("Model", (), {"diffusion_model": Other()})})
    result["errors"] = {
        "aura": message(by_regions, aura, experts, regions, 0, ALL),
        "aura by prompt": message(by_prompt, aura, None, experts, "mosaic", None, ALL),
        "aura everywhere": message(attach, aura, "tinyworld/mosaic.safetensors", 1.0, None),
        "unsupported": message(by_regions, strange, experts, regions, 0, ALL),
        "taken": message(by_regions, routed, experts, regions, 0, ALL),
        "clip": message(by_prompt, model, None, experts, "mosaic", (1, 0.05, 0.5), ALL),
        "few": message(by_prompt, model, clip, experts, "mosaic", gate, ALL),
        "no clip": message(by_prompt, model, None, seven, "mosaic", gate, ALL),
        "other clip": message(by_prompt, model, sd_clip(), seven, "mosaic", gate, ALL),
        "mode": message(RouteByPrompt.execute, model, seven, "mosaic", "named styles", *numbers, clip, gate),
        "no gate": message(RouteByPrompt.execute, model, seven, "mosaic", "learnt gate", *numbers, clip),
        "empty": message(by_prompt, model, None, experts, " ", None, ALL),
        "file": message(stacked, None, "tinyworld/none.safetensors", "", "", 1.0),
        "twice": message(stacked, experts, "tinyworld/mosaic.safetensors", "", "", 1.0),
        "unrouted": message(regional_prompts, model, clip, "a", "{style}", "own prompts"),
        "template": message(regional_prompts, routed, clip, "a", "{phrase}", "own prompts"),
        "style": message(regional_prompts, routed, clip, "a star", "{style}", "own words"),
        "other prompt": message(sample, attach(patched, "tinyworld/watercolor.safetensors", 0.5, None)[0], clip),
        "sd": message(by_regions, flux_model(), experts, regions, 0, ALL),
    }
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["notice"].splitlines() == ["mosaic -> a", "neon -> b", "watercolor: no region, off"]
    assert result["loaded"] == ["mosaic", "neon"], "an expert without a region was loaded"
    assert result["by_hand"] == 0
    assert result["change"] > 0.05
    assert result["calls"][0] == result["calls"][1], "routing took more calls of the network"
    assert result["after"], "the model that was given has changed"
    assert result["again"]
    assert result["beside"] < 1e-4, "an ordinary LoRA acts differently before and after routing"
    assert min(result["both"]) > 0.01
    assert result["late"], "an expert acted before its range"
    assert result["early"], "an expert did not act within its range"
    assert result["never"]
    assert min(result["part"]) > 1e-3
    assert result["weights"].splitlines() == ["mosaic: 0.000", "neon: 1.000", "watercolor: 0.000"]
    assert result["named"] == 0
    assert result["near"].splitlines() == ["mosaic: 1.000", "neon: 0.000", "watercolor: 0.000"]
    for name, weights in result["workflows"].items():
        assert float(dict(line.split(": ") for line in weights.splitlines())["mosaic"]) > 0.8, (name, weights)
    lines = dict(line.split(": ") for line in result["learnt"][0].splitlines())
    assert len(lines) == 7
    assert float(lines["neon"]) > 0.8, "the gate's order was taken for the stack's"
    assert result["learnt"][1] == [name for name, share in lines.items() if float(share) > 0]
    assert len(result["learnt"][1]) <= 2
    assert result["learnt change"] > 0.05
    assert result["plain"][0]
    assert "plain prompting" in result["plain"][1]
    assert result["prompts"][0].splitlines() == [
        "elsewhere: a picture", "mosaic: an a in mosaic style", "neon: a b in neon style"]  # fmt: skip
    assert result["prompts"][1] == 3 * 77
    assert result["lost"] == [
        "mosaic -> the a\nneon -> the b\nmosaic: not found, off\nneon: not found, off\nwatercolor: no region, off",
        "not found: the a\nnot found: the b\nevery place reads the prompt", 77, True]  # fmt: skip
    one, both = result["zero"]
    assert one == [
        "mosaic -> a\nneon -> b\nmosaic: strength 0, off",
        "elsewhere: a picture\nneon: a b in neon\nmosaic: strength 0, no words of its own for a", 2 * 77]  # fmt: skip
    assert both[1:] == [
        "mosaic: strength 0, no words of its own for a\nneon: strength 0, no words of its own for b\n"
        "every place reads the prompt", 77]  # fmt: skip
    said = "elsewhere: a picture\nmosaic: an a in mosaic style\nmosaic: strength 0, no words of its own for b"
    assert result["twice routed"] == [[said, 2 * 77]] * 2, "an expert that is off took the words of one that is on"
    assert result["owned"] == [True, True]
    assert result["article"] == result["prompts"][0]
    assert result["words"][0].splitlines() == ["mosaic: 2 tokens of its own", "neon: 1 tokens of its own"]
    assert result["words"][1] == 77
    assert min(result["words"][2:]) > 1e-3
    assert result["shared"], "words without isolation matter in a U-Net"
    assert result["after_prompts"]
    errors = result["errors"]
    assert all(text.startswith("RegionStyleError") for text in errors.values()), errors
    for case in ("unsupported", "aura", "aura by prompt", "aura everywhere"):
        assert all(family in errors[case] for family in ("SD1.5", "SD3", "FLUX")), errors[case]
    assert "already" in errors["taken"]
    assert "clip" in errors["clip"]
    assert "expected the gate's 7" in errors["few"]
    assert "clip" in errors["no clip"]
    assert "width 128" in errors["other clip"]
    assert "another mode" in errors["mode"]
    assert "Load Learnt Gate" in errors["no gate"]
    assert "prompt" in errors["empty"]
    assert "none.safetensors" in errors["file"]
    assert "twice" in errors["twice"]
    assert "Route Experts by Regions" in errors["unrouted"]
    assert "{style}" in errors["template"]
    assert "mosaic" in errors["style"]
    assert "visible_tokens of" in errors["other prompt"]


def test_routing_in_comfy(run_in_comfy):
    check(run_in_comfy(MODELS + SCRIPT))


def test_routing_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(MODELS + SCRIPT))
