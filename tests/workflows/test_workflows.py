"""Every workflow that ships runs as shipped on a real server, shows previews, and can be cancelled."""

import json
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workflow_files import SHEETS, api_name
from workflow_networks import BOXES, loads_public_weights, needs_networks, put_networks

from regionstyle.nodes.app.evaluation.scenes import demo_scene
from regionstyle.nodes.app.workflow.workflow import to_api_form

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
API = sorted((WORKFLOWS / "api").glob("*.json"))
UI = sorted(WORKFLOWS.glob("*.json"))
READY = [path for path in API if not loads_public_weights(json.loads(path.read_text(encoding="utf-8")))]

pytestmark = pytest.mark.slow


def load(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def scene_picture(comfy_server) -> Path:
    """The picture the restyle workflows load: the pack has put it where Load Image lists it."""
    return comfy_server.input_dir / "regionstyle_scene.png"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_every_workflow_has_both_forms_and_a_square_thumbnail():
    titles = {path.stem for path in UI}
    assert titles == set(SHEETS)
    assert sorted(map(api_name, titles)) == [path.stem for path in API]
    assert min(titles) == "01 Restyle by Sentence", "the first of the list is the promise"
    thumbnails = [Image.open(WORKFLOWS / f"{title}.jpg") for title in sorted(titles)]
    assert {image.size for image in thumbnails} == {(512, 512)}
    small = [np.asarray(image.convert("RGB").resize((32, 32)), dtype=float) for image in thumbnails]
    alike = [(a, b) for a in range(len(small)) for b in range(a) if np.abs(small[a] - small[b]).mean() < 3]
    assert not alike, "thumbnails that show the same picture"


def test_every_node_appears_in_a_workflow(comfy_server):
    ours = {name for name in comfy_server.get("/object_info") if name.startswith("RegionStyle")}
    used = {node["class_type"] for path in API for node in json.loads(path.read_text(encoding="utf-8")).values()}
    assert ours
    assert ours <= used


@pytest.mark.parametrize("title", SHEETS)
def test_what_the_browser_opens_runs_the_same_values(title, comfy_server):
    """Our own conversion of the browser's form, with the widgets that the server says each node has."""
    graph = json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8"))
    definitions = comfy_server.get("/object_info")
    made, shipped = to_api_form(graph, definitions), load(api_name(title))
    assert {key: node["class_type"] for key, node in made.items()} == {k: v["class_type"] for k, v in shipped.items()}
    for key, node in shipped.items():
        assert node["inputs"].items() <= made[key]["inputs"].items(), (key, node["class_type"])


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_workflow_gives_pictures(path, comfy_server, scene_picture, request):
    workflow = load(path.stem)
    if needs_networks(workflow):
        put_networks(request.getfixturevalue("workflow_networks"), comfy_server)
    history = comfy_server.wait(comfy_server.post(workflow))
    assert history["status"]["status_str"] == "success", history["status"]
    images = comfy_server.images(history)
    assert images
    assert all(pixels(image).std() > 5 for image in images), "a picture is one flat colour"


def test_each_thing_that_is_read_gets_its_own_mask(comfy_server, scene_picture, workflow_networks):
    """The boxes come from the model that has learnt them, the masks from the tiny world's SAM."""
    put_networks(workflow_networks, comfy_server)
    prompt = load("read_request_with_vlm")
    regions = next(k for k, v in prompt.items() if v["class_type"] == "RegionStyleSegmentBoxes")
    for phrase, (_, (left, top, right, bottom)) in BOXES.items():
        more = {
            "mask": {"class_type": "RegionStyleRegionsToMasks", "inputs": {"regions": [regions, 0], "phrase": phrase}},
            "show": {"class_type": "MaskPreview", "inputs": {"mask": ["mask", 0]}},
        }
        history = comfy_server.wait(comfy_server.post({**prompt, **more}))
        assert history["status"]["status_str"] == "success", history["status"]
        (shown,) = comfy_server.images({"outputs": {"x": history["outputs"]["show"]}})
        rows, columns = np.where(pixels(shown).mean(-1) > 127)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(found, (left, top, right, bottom))).max() < 12, (phrase, found)


def found_masks(server, prompt: dict, node: str, phrases: list[str]) -> dict[str, np.ndarray]:
    """What a node's regions (its first output) hold for some phrases, bool `[H,W]`."""
    more = {}
    for at, phrase in enumerate(phrases):
        wanted = {"regions": [node, 0], "phrase": phrase}
        more[f"mask{at}"] = {"class_type": "RegionStyleRegionsToMasks", "inputs": wanted}
        more[f"show{at}"] = {"class_type": "MaskPreview", "inputs": {"mask": [f"mask{at}", 0]}}
    history = server.wait(server.post({**prompt, **more}))
    assert history["status"]["status_str"] == "success", history["status"]
    shown = [server.images({"outputs": {"x": history["outputs"][f"show{at}"]}})[0] for at in range(len(phrases))]
    return {phrase: pixels(image).mean(-1) > 127 for phrase, image in zip(phrases, shown, strict=True)}


@pytest.mark.parametrize(
    ("name", "finder", "least"),
    [
        ("phrase_masks", "RegionStyleRegionsFromAttention", 0.9),
        ("text_grounded_masks", "RegionStyleTextGroundedMask", 0.75),
    ],
)
def test_things_that_are_found_lie_where_they_are(name, finder, least, comfy_server, scene_picture):
    """The picture is a scene of the tiny world, so the exact masks are known: the model's attention and its SAM."""
    truth = {thing.phrase: thing.mask > 0.5 for thing in demo_scene(10).objects}
    prompt = load(name)
    node = next(key for key, value in prompt.items() if value["class_type"] == finder)
    for phrase, mask in found_masks(comfy_server, prompt, node, list(truth)).items():
        iou = (mask & truth[phrase]).sum() / (mask | truth[phrase]).sum()
        assert iou >= least, (phrase, iou)


@pytest.mark.parametrize("name", ["restyle_by_attention", "sms_by_sentence"])
def test_restyle_changes_the_thing_and_nothing_else(name, comfy_server, scene_picture):
    history = comfy_server.wait(comfy_server.post(load(name)))
    result = next(i for i in comfy_server.images(history) if i.name.startswith("RegionStyle"))
    before, after = pixels(scene_picture), pixels(result)
    changed = (before != after).any(-1)
    assert 0.01 < changed.mean() < 0.5
    assert np.abs(before[changed].astype(int) - after[changed]).mean() > 8


def test_the_same_seed_gives_the_same_picture_after_another_run(comfy_server, scene_picture):
    def run(seed: int, steps: int) -> np.ndarray:
        prompt = load("restyle_by_attention")
        prompt["5"]["inputs"] |= {"seed": seed, "steps": steps}
        history = comfy_server.wait(comfy_server.post(prompt))
        return pixels(next(i for i in comfy_server.images(history) if i.name.startswith("RegionStyle")))

    first, other = run(5, 3), run(6, 4)
    comfy_server.post_json("/free", {"unload_models": True, "free_memory": True})
    assert (run(5, 3) == first).all()
    assert (other != first).any()


WATCH = """
import aiohttp, asyncio, json, sys

async def watch(url, prompt, stop_after):
    seen = {"previews": 0, "steps": 0, "end": None}
    async with aiohttp.ClientSession() as session, session.ws_connect(url + "/ws?clientId=watcher") as socket:
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        await session.post(url + "/prompt", json={"prompt": prompt, "client_id": "watcher"})
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                seen["previews"] += 1
                if stop_after and seen["previews"] == stop_after:
                    await session.post(url + "/interrupt")
                continue
            event = json.loads(message.data)
            seen["steps"] += event["type"] == "progress"
            if event["type"] in ("execution_success", "execution_interrupted", "execution_error"):
                seen["end"] = event["type"]
                break
    return seen

url, prompt, stop_after = json.load(sys.stdin)
print(json.dumps(asyncio.run(asyncio.wait_for(watch(url, prompt, stop_after), 120))))
"""


def watch(server, python: Path, prompt: dict, stop_after: int = 0) -> dict:
    """Run a prompt and count what a browser would be shown; interrupt it after a number of previews."""
    done = subprocess.run([python, "-c", textwrap.dedent(WATCH)], input=json.dumps([server.url, prompt, stop_after]),
                          capture_output=True, text=True, timeout=150)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_each_step_shows_a_preview(comfy_server, comfy_python, scene_picture):
    prompt = load("restyle_by_attention")
    prompt["5"]["inputs"] |= {"seed": 77, "steps": 6}
    seen = watch(comfy_server, comfy_python, prompt)
    assert seen["end"] == "execution_success"
    assert seen["previews"] >= 6


@pytest.mark.parametrize("step", [1, 4])
def test_cancel_takes_effect_and_the_next_run_is_whole(step, comfy_server, comfy_python, scene_picture):
    prompt = load("restyle_by_attention")
    prompt["5"]["inputs"] |= {"seed": 100 + step, "steps": 1000}
    seen = watch(comfy_server, comfy_python, prompt, stop_after=step)
    assert seen["end"] == "execution_interrupted"
    assert seen["previews"] < 40, "it went on long after the cancel"
    history = comfy_server.wait(comfy_server.post(load("restyle_by_attention")))
    assert history["status"]["status_str"] == "success"


def test_a_phrase_that_is_no_word_of_the_caption_is_a_clear_error(comfy_server, scene_picture):
    prompt = load("restyle_by_attention")
    prompt["3"]["inputs"] |= {"phrase": "blue ring", "caption": "a red star"}
    history = comfy_server.wait(comfy_server.post(prompt))
    assert history["status"]["status_str"] == "error"
    message = next(data for kind, data in history["status"]["messages"] if kind == "execution_error")
    assert "blue ring" in message["exception_message"]
    assert "red star" in message["exception_message"]


def test_help_pages_are_served(comfy_server):
    import urllib.request

    for name in (n for n in comfy_server.get("/object_info") if n.startswith("RegionStyle")):
        page = f"{comfy_server.url}/extensions/ComfyUI-RegionStyle/docs/{name}/en.md"
        with urllib.request.urlopen(page, timeout=20) as reply:
            assert reply.read().startswith(b"# ")


def test_every_input_and_output_is_explained(comfy_server):
    for name, node in comfy_server.get("/object_info").items():
        if name.startswith("RegionStyle"):
            inputs = {k: v for part in ("required", "optional") for k, v in node["input"].get(part, {}).items()}
            assert all(len(v) > 1 and v[1].get("tooltip") for v in inputs.values()), name
            assert all(node["output_tooltips"]), name
            assert node["description"], name
