"""Networks of the real architectures, random weights, in a real ComfyUI: folders, loading, masks, cache, errors."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_networks import save_tiny_dino, save_tiny_llava

from regionstyle.nodes.engine.sam_network import SamConfig, new_sam

pytestmark = pytest.mark.slow
WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"
SMALL = SamConfig(
    image_size=64, patch=8, width=32, depth=1, heads=2, window=0, global_blocks=(0,), prompt_width=32, mask_channels=8,
    decoder_mlp=48, iou_width=24,
)  # fmt: skip
SCENE = "regionstyle_scene.png"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A models folder with one network of each kind."""
    models = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    (models / "sams").mkdir()
    torch.save(new_sam(SMALL).state_dict(), models / "sams" / "small.pth")
    save_tiny_dino(models / "grounding_dino" / "dino-tiny")
    save_tiny_llava(models / "LLM" / "llava-tiny", ["a cat"])
    return models


@pytest.fixture(params=["comfy_server", pytest.param("comfy_old_server", id="0.3.64")])
def server(request, saved):
    running = request.getfixturevalue(request.param)
    shutil.copytree(saved, running.input_dir.parent / "models", dirs_exist_ok=True)
    shutil.copy(WORKFLOWS / SCENE, running.input_dir / SCENE)
    return running


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def workflow(sentence: str = "the star", **more) -> dict:
    """Detector, SAM, all-in-one; every output is looked at."""
    return {
        "1": node("LoadImage", image=SCENE),
        "2": node("RegionStyleLoadSam", file="small.pth"),
        "3": node("RegionStyleEncodeImage", sam=["2", 0], image=["1", 0]),
        "4": node("RegionStyleLoadDetector", folder="dino-tiny"),
        "5": node("RegionStyleTextGroundedMask", image=["1", 0], embedding=["3", 0], sentence=sentence,
                  detector=["4", 0], box_threshold=0.0, text_threshold=0.0, masks="best of three", strict=False),
        "6": node("PreviewImage", images=["5", 5]),
        "7": node("MaskPreview", mask=["5", 1]),
        **more,
    }  # fmt: skip


def run(server, prompt: dict) -> dict:
    history = server.wait(server.post(prompt), seconds=700)
    last = history["status"]["messages"][-1][1]
    assert history["status"]["status_str"] == "success", last.get("exception_message")
    return history


def cached(history: dict) -> list:
    return next(data["nodes"] for kind, data in history["status"]["messages"] if kind == "execution_cached")


def failure(server, prompt: dict) -> str:
    history = server.wait(server.post(prompt))
    return next(data for kind, data in history["status"]["messages"] if kind == "execution_error")["exception_message"]


def test_a_sentence_gives_masks_and_a_second_one_reuses_the_picture(server):
    first = run(server, workflow("make the star neon"))
    shown = first["outputs"]
    assert "star -> neon" in shown["5"]["text"][0]
    size = Image.open(WORKFLOWS / SCENE).size
    overlay, mask = (server.images({"outputs": {"x": shown[at]}})[0] for at in ("6", "7"))
    assert Image.open(mask).size == size
    assert Image.open(overlay).size[0] % size[0] == 0
    second = run(server, workflow("make the ring a mosaic"))
    assert {"2", "3", "4"} <= set(cached(second)), "the picture was encoded again"
    server.post_json("/free", {"unload_models": True, "free_memory": True})
    again = run(server, workflow("make the star neon", **{"9": node("PreviewImage", images=["1", 0])}))
    assert (
        Image.open(server.images({"outputs": {"x": again["outputs"]["7"]}})[0]).tobytes() == Image.open(mask).tobytes()
    )


def test_boxes_points_and_phrases(server):
    more = {
        "10": node("RegionStyleDetectPhrases", detector=["4", 0], image=["1", 0], phrases="red star. blue ring.",
                   box_threshold=0.0, text_threshold=0.0, strict=False),
        "11": node("RegionStyleSegmentBoxes", embedding=["3", 0], regions=["10", 0], masks="single",
                   boxes="10, 10, 60, 60", points_inside="", points_outside="", phrase="cup"),
        "12": node("RegionStyleSegmentBoxes", embedding=["3", 0], masks="best of three", boxes="",
                   points_inside='[{"x": 40, "y": 50}]', points_outside="3, 3", phrase="cup"),
        "13": node("MaskPreview", mask=["11", 1]),
        "14": node("MaskPreview", mask=["12", 1]),
    }  # fmt: skip
    outputs = run(server, workflow(**more))["outputs"]
    assert "'red star' in image 0" in outputs["10"]["text"][0]
    assert "'blue ring' in image 0" in outputs["10"]["text"][0]
    assert len(server.images({"outputs": {"x": outputs["13"], "y": outputs["14"]}})) == 2


def test_boxes_of_cores_own_nodes(server):
    """Its classes came after 0.3.64."""
    if server.get("/system_stats")["system"]["comfyui_version"] == "0.3.64":
        pytest.skip("0.3.64 has no node that gives boxes")
    more = {
        "10": node("PrimitiveBoundingBox", x=10, y=12, width=60, height=50),
        "11": node("RegionStyleSegmentBoxes", embedding=["3", 0], bboxes=["10", 0], masks="single", boxes="",
                   points_inside="", points_outside="", phrase="cup"),
        "12": node("MaskPreview", mask=["11", 1]),
    }  # fmt: skip
    assert server.images({"outputs": {"x": run(server, workflow(**more))["outputs"]["12"]}})


def test_what_is_not_there_is_a_notice_or_an_error(server):
    prompt = workflow("the owl")
    prompt["5"]["inputs"]["box_threshold"] = 1.0
    assert "'owl' not found in image 0: empty mask" in run(server, prompt)["outputs"]["5"]["text"][0]
    prompt["5"]["inputs"]["strict"] = True
    assert "switch strict off" in failure(server, prompt)


def test_a_model_that_answers_nonsense_is_an_error_that_shows_it(server):
    more = {
        "10": node("RegionStyleLoadVlm", folder="llava-tiny"),
        "11": node("RegionStyleReadWithVlm", vlm=["10", 0], image=["1", 0], request="the sleeping one: woodcut"),
        "12": node("PreviewAny", source=["11", 2]),
    }
    assert "llava-tiny was asked twice and its reply cannot be used" in failure(server, workflow(**more))


def test_two_finders_are_refused(server):
    more = {"10": node("RegionStyleTinyWorldLoader")}
    prompt = workflow(**more)
    prompt["5"]["inputs"] |= {"model": ["10", 0], "clip": ["10", 1], "vae": ["10", 2]}
    assert "box finder: got detector and model, clip and vae, expected exactly one" in failure(server, prompt)


@pytest.mark.parametrize(
    ("at", "name", "value", "words"),
    [
        ("2", "file", "sam_vit_b_01ec64.pth", ("sam_vit_b_01ec64.pth", "models/sams", "small.pth", "segment-anything")),
        ("4", "folder", "dino", ("dino/config.json", "models/grounding_dino", "IDEA-Research/grounding-dino-tiny")),
    ],
)
def test_a_missing_file_is_named_with_its_folder_and_public_name(server, at, name, value, words):
    prompt = workflow()
    prompt[at]["inputs"][name] = value
    status, reply = server.post_json("/prompt", {"prompt": prompt})
    assert status == 400
    said = str(reply["node_errors"][at])
    assert all(word in said for word in words), said


def test_vit_b_at_full_size(comfy_server, saved):
    """The public architecture as the package itself builds it, in ComfyUI."""
    from segment_anything import sam_model_registry

    folder = comfy_server.input_dir.parent / "models" / "sams"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam_vit_b_01ec64.pth")
    shutil.copy(WORKFLOWS / SCENE, comfy_server.input_dir / SCENE)
    prompt = {
        "1": node("LoadImage", image=SCENE),
        "2": node("RegionStyleLoadSam", file="sam_vit_b_01ec64.pth"),
        "3": node("RegionStyleEncodeImage", sam=["2", 0], image=["1", 0]),
        "4": node("RegionStyleSegmentBoxes", embedding=["3", 0], boxes="10, 10, 60, 60", points_inside="",
                  points_outside="", phrase="cup", masks="best of three"),
        "5": node("MaskPreview", mask=["4", 1]),
        "6": node("PreviewAny", source=["2", 1]),
    }  # fmt: skip
    first = run(comfy_server, prompt)
    assert first["outputs"]["6"]["text"] == ["vit_b"]
    prompt["4"]["inputs"]["boxes"] = "30, 30, 90, 100"
    second = run(comfy_server, prompt)
    assert {"2", "3"} <= set(cached(second))
    assert seconds(first) > 5 * seconds(second), "the second prompt should only cost the mask decoder"


def seconds(history: dict) -> float:
    times = [data["timestamp"] for _, data in history["status"]["messages"] if "timestamp" in data]
    return (times[-1] - times[0]) / 1000
