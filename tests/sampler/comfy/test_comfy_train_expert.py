"""Teaching an expert in real ComfyUI: pairs from sockets and from a manifest, the stock loader's effect, errors."""

import pytest

SCRIPT = """
import copy, json, tempfile
from pathlib import Path
import torch
import comfy.model_management as management, comfy.sd, comfy.utils, folder_paths
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.sampler.comfy.training import held_pairs, pairs_for, teach_on_comfy
from regionstyle.nodes.sampler.training.settings import ExpertTrainSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import restyle_object, scene

base = Path(tempfile.mkdtemp())
folder_paths.set_output_directory(str(base / "output"))
folder_paths.set_input_directory(str(base / "input"))
folder_paths.folder_names_and_paths["loras"] = ([str(base / "loras")], {".safetensors"})
(base / "input").mkdir()
scenes = [scene(seed, count=1) for seed in range(2)]
before = torch.stack([torch.from_numpy(one.image) for one in scenes])
after = torch.stack([torch.from_numpy(restyle_object(one, 0, "mosaic").image) for one in scenes])
regions = Regions(tuple(
    Region.of_mask(f"{one.objects[0].color} {one.objects[0].shape}", torch.from_numpy(one.objects[0].mask),
                   style="mosaic", image=number) for number, one in enumerate(scenes)), 128, 128, 2)
settings = ExpertTrainSettings(steps=2, batch=2, rate=0.01, rank=2, warmup=0, preview_every=1)

def error(call, *args, **options):
    try:
        call(*args, **options)
    except BaseException as problem:
        return f"{type(problem).__name__}: {problem}"
    return "none"

with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def eps(patched):
        predictor = ComfyPredictor(patched, clip, vae, ComfyHost())
        with predictor.loaded():
            return predictor.predict(x, 0.4, predictor.encode_text(["a red star in mosaic style"])).eps

    plain = eps(model)
    pairs = pairs_for(after, before, regions, "", "")
    made = teach_on_comfy(model, clip, vae, pairs, "", settings, resolution=0, resume=False)
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", made.file))
    stock, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    taught = eps(made.model)
    blank = Regions(tuple(Region(r.phrase, r.box, r.mask * 0, r.style, image=r.image) for r in regions), 128, 128, 2)
    said = teach_on_comfy(model, clip, vae, pairs_for(after, before, blank, "", ""), "blank", settings,
                          resolution=64, resume=False)
    other = model.clone()
    other.model = copy.copy(model.model)
    other.model._modules = {**model.model._modules, "diffusion_model": torch.nn.Linear(2, 2)}

    def cancelled(after, name):
        # The user cancels when so many pairs are encoded or steps done: two pairs, then two steps.
        seen = []
        def hook(value, total, preview, *rest, **more):
            seen.append(value)
            if len(seen) == after:
                management.interrupt_current_processing(True)
        comfy.utils.set_progress_bar_global_hook(hook)
        try:
            return error(teach_on_comfy, model, clip, vae, pairs, name, settings, resolution=0, resume=False)
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
            management.interrupt_current_processing(False)
    stopped = [cancelled(after, f"stop-{after}") for after in (1, 2, 3)]
    states = [(base / "output" / "regionstyle" / f"stop-{after}.train.pt").is_file() for after in (1, 2, 3)]
    again = error(teach_on_comfy, model, clip, vae, pairs, "stop-3", settings, resolution=0, resume=False)
    went_on = teach_on_comfy(model, clip, vae, pairs, "stop-3", settings, resolution=0, resume=True)
    def changed(**more):
        return ExpertTrainSettings(**{**vars(settings), **more})
    checkpointed = changed(checkpointing=True, preview_every=9)
    twice = teach_on_comfy(model, clip, vae, pairs, "twice", checkpointed, resolution=0, resume=False)
    by_file = lambda file: comfy.utils.load_torch_file(folder_paths.get_full_path("loras", file))
    held = teach_on_comfy(model, clip, vae, pairs, "held", changed(validation=1), resolution=64, resume=False)
    given = teach_on_comfy(model, clip, vae, pairs[:1], "given", settings, resolution=64, resume=False, held=pairs[1:])
    shown = changed(source="shown")
    result = {
        "twice": all(torch.equal(tensor, by_file(twice.file)[name]) for name, tensor in by_file(made.file).items()),
        "held": [held.notice, list(held.previews.shape)], "given": [given.notice, list(given.previews.shape)],
        "all held": error(teach_on_comfy, model, clip, vae, pairs, "all", changed(validation=2), resolution=64,
                          resume=False),
        "held away": error(held_pairs, "../x.json"),
        "stopped": stopped, "states": states, "again": again, "went on": went_on.notice,
        "equal": float((eps(went_on.model) - eps(made.model)).abs().max()),
        "family": error(teach_on_comfy, other, clip, vae, pairs, "other", settings, resolution=0, resume=False),
        "shown": error(teach_on_comfy, model, clip, vae, pairs, "shown", shown, resolution=0, resume=False),
        "said": said.notice,
        "prompts": [pair.prompt for pair in pairs], "file": made.file, "previews": list(made.previews.shape),
        "notice": made.notice, "warning": said.warning, "trace": bool(torch.equal(eps(model), plain)),
        "stock": float((taught - eps(stock)).abs().max()), "effect": float((taught - plain).abs().max()),
        "half": error(pairs_for, after, None, regions, "", ""),
        "none": error(pairs_for, None, None, None, "", ""),
        "both": error(pairs_for, after, before, regions, "x.json", ""),
        "away": error(pairs_for, None, None, None, "../x.json", ""),
        "other": error(pairs_for, after[:1], before, regions, "", ""),
        "words": error(teach_on_comfy, model, clip, vae, pairs_for(after, before, regions, "", "a star\\na star"), "w",
                       settings, resolution=0, resume=False),
        "resume": error(teach_on_comfy, model, clip, vae, pairs, "never", settings, resolution=0, resume=True),
    }
print(json.dumps(result))
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(run_in_comfy):
    return run_in_comfy(SCRIPT)


def test_the_stock_loader_applies_the_file_with_the_same_effect(found):
    assert found["file"] == "regionstyle/mosaic.safetensors"
    assert found["prompts"][0].endswith("in mosaic style")
    assert found["stock"] < 1e-4 < 1e-3 < found["effect"]
    assert found["trace"], "the MODEL given is not as before"
    assert found["previews"] == [2, 128, 128, 3]
    assert "2 steps on 2 pairs" in found["notice"]


def test_a_mask_that_says_nothing_is_a_warning(found):
    assert found["warning"].count("not supervised") == 2
    assert "2 pairs, 2 things not supervised" in found["said"]


def test_it_can_be_cancelled_at_every_pair_and_step_and_goes_on_to_the_same(found):
    assert all("Interrupt" in text for text in found["stopped"]), found["stopped"]
    assert found["states"] == [False, False, True], "before the first step there is nothing to keep"
    assert "Switch resume on" in found["again"]
    assert "2 steps on 2 pairs" in found["went on"]
    assert found["equal"] == 0.0, "as the training that was not stopped"


def test_with_checkpointing_the_file_is_the_same_bit_for_bit(found):
    assert found["twice"]


@pytest.mark.parametrize("case", ["held", "given"])
def test_held_out_pairs_are_measured_and_drawn(found, case):
    notice, previews = found[case]
    assert "2 steps on 1 pairs; 1 held out, loss " in notice
    frames, height, width, _ = previews
    assert frames == 2
    assert height > 64
    assert width > 3 * 64


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("all held", "validation: got 2 of 2 different pairs"),
        ("held away", "validation_manifest"),
        ("half", "only image, regions"),
        ("none", "or a manifest"),
        ("both", "a manifest and image"),
        ("away", "inside"),
        ("other", "the same pictures"),
        ("words", "pair 'picture 1'"),
        ("resume", "no file"),
        ("family", "got Linear, of another family"),
        ("shown", "FLUX class (Kontext)"),
    ],
)
def test_wrong_input_is_one_clear_error(found, case, part):
    assert found[case].startswith("RegionStyleError")
    assert part in found[case]
