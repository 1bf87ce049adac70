"""The region nodes and Restyle by Sentence over ComfyUI's objects, on both supported versions."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(params=["0.33", "0.3.64"])
def run(request):
    return request.getfixturevalue("run_in_comfy" if request.param == "0.33" else "run_in_old_comfy")


NODES = """
import folder_paths, torch
from comfy_api.latest import io
io.NodeOutput.__getitem__ = lambda self, at: self.args[at]
from pathlib import Path
from regionstyle.nodes.grounding.comfy.region_nodes import ParsePrompt, PickRegions, RegionsFromMask, RegionsToMasks
from regionstyle.nodes.grounding.comfy.mask_nodes import CombineMasks, ComposeRegions, RefineMask, RefineRegions
from regionstyle.nodes.grounding.comfy.region_file_nodes import LoadRegions, PreviewRegions, SaveRegions

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ValueError as problem:
        return str(problem)
    return ""

left, right = torch.zeros(2, 24, 32), torch.zeros(12, 16)
left[0, 4:20, 2:12] = 1
right[2:10, 10:14] = 1
with torch.inference_mode():
    regions = RegionsFromMask.execute(left, "star", "neon")[0]
    both = RegionsFromMask.execute(right, "moon", "mosaic", regions)[0]
    union, masks, phrases, styles = RegionsToMasks.execute(both).args
    only = RegionsToMasks.execute(both, "moon").args
    composed = ComposeRegions.execute(both, "smaller on top", "gothic")[0]
    refined = RefineRegions.execute(both, grow=-3)[0]
    image = torch.rand(2, 24, 32, 3)
    edges = RefineMask.execute(left, edges=4, image=image)[0]
    picked = PickRegions.execute(both, "", "right", 1, 1)[0]
    file = SaveRegions.execute(both, "sub/scene")[0]
    again = SaveRegions.execute(both, "sub/scene")[0]
    back = LoadRegions.execute(file)[0]
    drawn = PreviewRegions.execute(image, both)[0]
    outside = Path(folder_paths.get_output_directory()).parent / "secret.json"
    outside.write_text("{}")
    result = {
        "parsed": ParsePrompt.execute("make the dog neon and the cat gothic", 2).args,
        "parse_error": error(ParsePrompt.execute, "make the dog neon", 2),
        "regions": [(one.phrase, one.style, one.image, one.score) for one in both],
        "union": list(union.shape), "masks": list(masks.shape), "phrases": phrases, "styles": styles,
        "moon": [list(only[0].shape), list(only[1].shape), only[2]],
        "composed": [one.phrase for one in composed],
        "covered": bool(torch.equal(
            composed.of_phrase("background").union(), 1 - composed.with_items(composed.items[:4]).union())),
        "refined": [float(one.mask.sum()) for one in refined],
        "edges": list(edges.shape), "edge_error": error(RefineMask.execute, left, edges=4),
        "picked": [(one.phrase, one.image) for one in picked],
        "combined": list(CombineMasks.execute(left, "subtract", right)[0].shape),
        "combine_error": error(CombineMasks.execute, left, "union"),
        "choice_error": error(CombineMasks.execute, left, "xor", right),
        "file": [file, again],
        "back": [(one.phrase, one.style, one.image, one.box) for one in back] == [
            (one.phrase, one.style, one.image, one.box) for one in both],
        "fingerprint": bool(LoadRegions.fingerprint_inputs(file)) and not LoadRegions.fingerprint_inputs(None),
        "escapes": [error(SaveRegions.execute, both, name) for name in ("../x", "/tmp/x", "", "a\\0b", "x" * 300)] + [
            error(LoadRegions.execute, name)
            for name in ("../secret.json", "../secret.json [output]", str(outside), "", "a\\0b", "x" * 300)],
        "odd_fingerprint": [LoadRegions.fingerprint_inputs(name) for name in ("a\\0b", "x" * 300)],
        "nan": [error(call, left * float("nan"), *more) for call, more in (
            (RefineMask.execute, ()), (RegionsFromMask.execute, ("star",)), (CombineMasks.execute, ("complement",)))],
        "missing": error(LoadRegions.execute, "none.json"),
        "drawn": list(drawn.shape), "size_error": error(PreviewRegions.execute, image[:, :20], both),
        "unchanged": bool(left.sum() == 160 and right.sum() == 32),
    }
print(json.dumps(result))
"""


def test_region_nodes(run, tmp_path):
    for name in ("output", "input", "temp", "models", "custom_nodes", "user"):
        (tmp_path / name).mkdir()
    made = run(NODES, args=("--base-directory", str(tmp_path)))
    assert made["parsed"] == ["cat", "gothic", "dog\ncat", "neon\ngothic", 2]
    assert "number" in made["parse_error"]
    assert made["regions"] == [
        ["star", "neon", 0, 1],
        ["star", "neon", 1, 0],
        ["moon", "mosaic", 0, 1],
        ["moon", "mosaic", 1, 1],
    ]
    assert (made["union"], made["masks"]) == ([2, 24, 32], [4, 24, 32])
    assert made["phrases"].split("\n") == ["star", "star", "moon", "moon"]
    assert made["styles"].split("\n") == ["neon", "neon", "mosaic", "mosaic"]
    assert made["moon"] == [[2, 24, 32], [2, 24, 32], "moon\nmoon"]
    assert made["composed"] == ["star", "star", "moon", "moon", "background", "background"]
    assert made["covered"]
    assert made["refined"][0] == 4 * 10
    assert made["refined"][1] == 0
    assert made["edges"] == [2, 24, 32]
    assert "image" in made["edge_error"]
    assert made["picked"] == [["moon", 0], ["moon", 1]]
    assert made["combined"] == [2, 24, 32]
    assert "second mask" in made["combine_error"]
    assert "union, intersect" in made["choice_error"]
    assert made["file"] == ["sub/scene_00001_.json [output]", "sub/scene_00002_.json [output]"]
    assert made["back"]
    assert made["fingerprint"]
    assert all(made["escapes"]), made["escapes"]
    assert made["odd_fingerprint"] == ["", ""]
    assert all("NaN" in one for one in made["nan"]), made["nan"]
    assert not (tmp_path / "x_00001_.json").exists()
    assert "none.json" in made["missing"]
    assert made["drawn"] == [2, 24 * 16, 32 * 16, 3]
    assert "32 x 20" in made["size_error"]
    assert made["unchanged"]


SENTENCE = """
import torch
from comfy_api.latest import io
io.NodeOutput.__getitem__ = lambda self, at: self.args[at]
from regionstyle.nodes.app.comfyui.restyle_nodes import RestyleSentence
from regionstyle.nodes.grounding.comfy.region_nodes import RegionsFromAttention, RegionsFromMask
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ValueError as problem:
        return str(problem)
    return ""

tiny.register_experts()
with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    plain, _ = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
    styled, _ = attach(plain, "tinyworld/neon.safetensors", 1.0, None)
    made = scene(10, split="held-out", count=2)
    image = torch.from_numpy(made.image.copy())[None].repeat(2, 1, 1, 1)
    first, second = (thing.phrase for thing in made.objects)
    boxes = torch.zeros(2, 2, 128, 128)
    boxes[0, :, 10:60, 10:60] = 1
    boxes[1, 0, 50:110, 50:120] = 1
    regions = RegionsFromMask.execute(boxes[0], "star", "mosaic")[0]
    regions = RegionsFromMask.execute(boxes[1], "moon", "neon", regions)[0]
    kept = image.clone()

    def go(sentence, regions=regions, model=styled, seed=3, **more):
        fixed = {"steps": 2, "cfg": 1.0, "strength": 0.3, "feather": 0}
        return RestyleSentence.execute(model, clip, vae, image, sentence, seed=seed, regions=regions, **fixed, **more)

    both = go("make the star mosaic and the moon neon")
    own = go("")
    one = go("make the star mosaic")
    swapped = go("make the star neon and the moon mosaic")
    outside = both[1] == 0
    things = f"the {first}, the {second}, everything except the {first}"
    found = RegionsFromAttention.execute(model, clip, vae, image, things, draws=1)
    asked = f"turn the {first} into a mosaic"
    alone = RestyleSentence.execute(model, clip, vae, image[:1], asked, seed=3, steps=1, cfg=1.0)
    looked = {"seed": 3, "steps": 1, "cfg": 1.0, "strength": 0.3}
    with_experts, without = (
        RestyleSentence.execute(one, clip, vae, image[:1], asked, **looked)[2].items[0] for one in (styled, model))
    result = {
        "shapes": [list(both[0].shape), list(both[1].shape), len(both[2])],
        "outside": bool(torch.equal(both[0][outside], image[outside])),
        "inside": float((both[0] - image).abs()[~outside].mean()),
        "same_again": bool(torch.equal(go("make the star mosaic and the moon neon")[0], both[0])),
        "other_seed": bool(torch.equal(go("make the star mosaic and the moon neon", seed=4)[0], both[0])),
        "own_styles": bool(torch.equal(own[0], both[0])),
        "experts_differ": bool(torch.equal(swapped[0], both[0])),
        "star_alone_on_second": bool(torch.equal(one[0][1], both[0][1])),
        "missing": [(r.phrase, r.image) for r in both[2].missing],
        "strict": error(go, "make the star mosaic and the moon neon", strict=True),
        "style_error": error(go, "turn the star into a cubism"),
        "word_error": error(go, "make the sun mosaic"),
        "bare": bool(torch.equal(go("mosaic")[0], go("make the star mosaic and the moon mosaic")[0])),
        "bare_errors": [error(go, words) for words in ("cubism", "neon, mosaic", "mosaic the sun")],
        "bare_alone": error(go, "mosaic", regions=None),
        "empty": error(go, "", regions=None),
        "template": error(go, "make the star mosaic", template="x"),
        "bias": error(go, "make the star mosaic", bias=1.0),
        "phrases": found[0].phrases, "batch": list(found[1].shape),
        "alone": [list(alone[0].shape), bool(torch.equal(alone[0][alone[1] == 0], image[:1][alone[1] == 0]))],
        "looked": [bool(torch.equal(with_experts.mask, without.mask)), with_experts.score],
        "input_kept": bool(torch.equal(image, kept)),
    }
print(json.dumps(result))
"""


def test_restyle_by_sentence(run):
    made = run(SENTENCE)
    assert made["shapes"] == [[2, 128, 128, 3], [2, 128, 128], 4]
    assert made["outside"]
    assert made["inside"] > 0.01
    assert made["same_again"]
    assert not made["other_seed"]
    assert made["own_styles"]
    assert made["bare"]
    assert all("With a region given, the style alone is enough" in said for said in made["bare_errors"])
    assert "not understood: 'mosaic'" in made["bare_alone"]
    assert "region given" not in made["bare_alone"]
    assert not made["experts_differ"]
    assert made["star_alone_on_second"]
    assert made["missing"] == [["moon", 1]]
    assert "'moon' not found in image 1" in made["strict"]
    assert "mosaic, neon" in made["style_error"]
    assert "'moon', 'star'" in made["word_error"]
    assert "sentence" in made["empty"]
    assert "{style}" in made["template"]
    assert "bias" in made["bias"]
    assert len(made["phrases"]) == 3
    assert made["batch"] == [2, 128, 128]
    assert made["alone"] == [[1, 128, 128, 3], True]
    assert made["looked"][0], "experts drew over the picture that things are looked for in"
    assert made["looked"][1] > 0.5
    assert made["input_kept"]
