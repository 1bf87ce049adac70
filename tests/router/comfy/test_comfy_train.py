"""Training in real ComfyUI: the same losses as on the other host, the same effect through the stock LoRA loader."""

import pytest

SCRIPT = """
import tempfile
from pathlib import Path
import torch
import comfy.model_management as management, comfy.sd, comfy.utils, folder_paths
from regionstyle.nodes.engine.adapters.comfy import attached_experts
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.router.training import run as train_run
from regionstyle.nodes.router.comfy.training import Pictures, pictures_for, train_on_comfy
from regionstyle.nodes.engine.lora.init import init_lora
from regionstyle.nodes.router.training.style_pictures import Cropping
from regionstyle.nodes.router.training.examples import encode_examples
from regionstyle.nodes.router.comfy.train_nodes import TrainStyle
from regionstyle.nodes.router.training.style import StyleTrainer
from regionstyle.nodes.engine.training.settings import TrainSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny, bundled
from regionstyle.nodes.tinyworld.world import restyle_whole, scene

base = Path(tempfile.mkdtemp())
folder_paths.set_output_directory(str(base / "output"))
folder_paths.set_input_directory(str(base / "input"))
folder_paths.folder_names_and_paths["loras"] = ([str(base / "loras")], {".safetensors"})
(base / "input").mkdir()
scenes = [restyle_whole(scene(seed), "oil paint") for seed in range(3)]
image = torch.stack([torch.from_numpy(one.image) for one in scenes])
captions = "\\n".join(one.caption for one in scenes)
settings = TrainSettings(steps=4, batch=2, rate=0.01, rank=2, warmup=0, preview_every=2)
result = {}

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
            return predictor.predict(x, 0.4, predictor.encode_text(["a red star in oil paint style"])).eps

    def train(name, settings=settings, resume=False, model=model):
        pictures = Pictures(pictures_for(image, "", captions))
        return train_on_comfy(model, clip, vae, pictures, "oil paint", name, settings, resume=resume)

    before, kept = eps(model), {}
    run = train_run.train_style
    def remember(*args, **options):
        kept["made"] = run(*args, **options)
        return kept["made"]
    import regionstyle.nodes.router.comfy.training as comfy_train
    comfy_train.train_style = remember

    made = train("first")
    losses, first = kept["made"].losses, kept["made"].expert
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", made.file))
    stock, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    routed = eps(made.model)
    result |= {
        "file": made.file, "losses": losses, "previews": list(made.previews.shape), "curve": list(made.curve.shape),
        "notice": made.notice, "trace": bool(torch.equal(eps(model), before)),
        "stock": float((routed - eps(stock)).abs().max()), "effect": float((routed - before).abs().max()),
        "again": train("first").file, "same": kept["made"].losses == losses,
        "chained": [w.name for w in attached_experts(train("first", TrainSettings(
            steps=1, rank=2), model=made.model).model)],
    }

    step = StyleTrainer.step
    def stopping(trainer):
        loss = step(trainer)
        if trainer.done == 2:
            management.interrupt_current_processing(True)
        return loss
    StyleTrainer.step = stopping
    result["stopped"] = error(train, "second").split(":")[0]
    StyleTrainer.step = step
    result |= {"lost": error(train, "second"), "no_file": not (base / "loras/regionstyle/second.safetensors").exists()}
    resumed = train("second", resume=True)
    result |= {
        "resumed": kept["made"].losses == losses,
        "bits": all(torch.equal(l.up, kept["made"].expert.layers[n].up) for n, l in first.layers.items()),
        "free": bool(torch.equal(eps(model), before)),
        "both": error(pictures_for, image, "folder", ""), "none": error(pictures_for, None, " ", ""),
        "outside": error(pictures_for, None, "../output", ""), "name": error(train, "../x"),
        "few": error(TrainStyle.execute, model, clip, vae, "s", image=image[:2]),
        "layers": error(TrainStyle.execute, model, clip, vae, "s", image=image, layers="none"),
        "size": error(TrainStyle.execute, model, clip, vae, "s", image=image, resolution=60),
    }

local = bundled.load_predictor(LocalHost("cpu"))
examples = encode_examples(local, pictures_for(image, "", captions), "oil paint", Cropping(128), 0)
fresh = init_lora(local.network, "x", "oil paint", rank=2, layers="all", seed=0)
weights = ExpertWeights(fresh).requires_grad_(True)
with ExpertStack(local.network, [weights]) as stack, local.gradients():
    stack.set(Gates({"x": 1.0}))
    trainer = StyleTrainer(local, weights.parameters(), examples, settings)
    result["local"] = [trainer.step() for _ in range(4)]
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["file"] == "regionstyle/first.safetensors"
    assert result["again"] == "regionstyle/first-2.safetensors", "a file was replaced"
    assert result["previews"] == [2, 128, 128, 3]
    assert result["curve"][-1] == 3
    assert "4 steps, 3 pictures" in result["notice"]
    assert result["trace"], "the model that was given has changed"
    assert result["effect"] > 0.01
    assert result["stock"] < 1e-4, "ComfyUI's own loader gives something else"
    assert result["losses"] == pytest.approx(result["local"], rel=1e-3), "the hosts train differently"
    assert result["same"], "the same seed gives something else"
    assert result["chained"] == ["first", "first 2"]
    assert result["stopped"] == "InterruptProcessingException"
    assert "resume" in result["lost"]
    assert result["no_file"]
    assert result["resumed"]
    assert result["bits"], "a resumed training is not what an uninterrupted one gives"
    assert result["free"]
    for name, part in {
        "both": "a batch and a folder",
        "none": "got nothing",
        "outside": "a folder inside",
        "name": "letters, digits",
        "few": "2 pictures, expected 3",
        "layers": "all, attention",
        "size": "multiple of 8",
    }.items():
        assert part in result[name], result[name]


@pytest.mark.slow
def test_training_in_comfy(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_training_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))
