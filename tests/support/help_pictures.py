"""Makes pictures of help pages, each from runs of shipped workflows on a real ComfyUI.

    python tests/support/help_pictures.py [NODE_ID ...]

A picture is a strip of squares, 192 px each, as nodes/web/docs/<NodeId>/example.jpg; the page's text says what stands
where. Pages that are not in `PAGES` have pictures that were made otherwise, or need none. The picture of a report is
taken by a Chromium (`CHROMIUM_PATH`, or the one that is found).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from workflow_files import WORKFLOWS
from workflow_networks import needs_networks, put_networks, save_networks
from workflow_thumbnails import PHOTOGRAPH, Shot, pictures, square

from comfy_server import ComfyServer

DOCS = WORKFLOWS.parent / "nodes" / "web" / "docs"
LIMIT = 70_000  # bytes of a help page's picture
SIDE, GAP = 192, 8
LANCZOS = Image.Resampling.LANCZOS
Node = dict[str, Any]


def rows(images: list[Image.Image]) -> Image.Image:
    """Wide pictures one below the other, whole."""
    width = 3 * (SIDE + GAP) - GAP
    fitted = [image.resize((width, round(image.height * width / image.width)), LANCZOS) for image in images]
    sheet = Image.new("RGB", (width, sum(image.height + GAP for image in fitted) - GAP), "white")
    top = 0
    for image in fitted:
        sheet.paste(image, (0, top))
        top += image.height + GAP
    return sheet


def strip(images: list[Image.Image]) -> Image.Image:
    """Squares beside each other on white."""
    sheet = Image.new("RGB", (len(images) * (SIDE + GAP) - GAP, SIDE), "white")
    for at, image in enumerate(images):
        sheet.paste(square(image, SIDE), (at * (SIDE + GAP), 0))
    return sheet


@dataclass(frozen=True)
class Page:
    """The workflow that a page's picture comes from, its runs, and the text that stands for the picture.

    draw: how the pictures are put together; report: the picture is the HTML page that the run wrote.
    """

    workflow: str
    shots: tuple[Shot, ...]
    says: str
    draw: Callable[[list[Image.Image]], Image.Image] = strip
    report: bool = False


def shown(*nodes: str, **values: object) -> Shot:
    """The first picture of some nodes; values: `_3_strength=0.5` for input strength of node 3."""
    changed = tuple((name[1:].replace("_", ".", 1), value) for name, value in values.items())
    return Shot(tuple((node, 0) for node in nodes), changed)


def from_noise(isolation: str, prompt: str) -> Shot:
    """A new picture with both styles in the regions of another one: what leaks is not held back by a source."""
    return shown("11:0", _7_isolation=isolation, _7_prompt=prompt, _10_denoise=1.0, _10_cfg=4.0, _10_steps=20)


def attention(model: str) -> dict[str, object]:
    """Where the model of node `model` looks for "mosaic" in the scene that node 2 loads."""
    asked = {"prompt": TAUGHT, "phrases": "mosaic", "level": 0.5, "layers": "useful", "attention": "logodds"}
    linked = {"model": [model, 0], "clip": ["1", 1], "vae": ["1", 2], "image": ["2", 0]}
    return {"class_type": "RegionStyleAttentionMap", "inputs": {**linked, **asked, "draws": 8, "seed": 0}}


TAUGHT = "a orange triangle in mosaic style and a blue ring in mosaic style"  # the pair's own prompt
LEARNT = {
    "class_type": "LoraLoaderModelOnly",
    "inputs": {"model": ["1", 0], "lora_name": "regionstyle/mosaic-in-place.safetensors", "strength_model": 1.0},
}
STEPS = (("6.steps", 150),)  # of the training on regions
PROMPTS = ("a red star on plain background in mosaic style", "a red star on plain background in neon style")
GATED = tuple(f"a red star on plain background in {style} style" for style in ("mosaic", "watercolor", "halftone"))
BOTH = "an orange triangle in mosaic style and a blue ring in halftone style"
ISOLATED = (("shared", BOTH), ("own words", BOTH), ("own prompts", "a picture"))
# The mask that node 3 finds, and the same 12 pixels to the right and 8 down as the truth.
MOVED: dict[str, Node] = {
    "empty": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 128}},
    "moved": {
        "class_type": "MaskComposite",
        "inputs": {"destination": ["empty", 0], "source": ["3", 0], "x": 12, "y": 8, "operation": "add"},
    },
    "10": {"class_type": "RegionStyleMaskIoU", "inputs": {"found": ["3", 0], "truth": ["moved", 0], "threshold": 0.5}},
    "found": {"class_type": "MaskPreview", "inputs": {"mask": ["3", 0]}},
    "truth": {"class_type": "MaskPreview", "inputs": {"mask": ["moved", 0]}},
    "one": {
        "class_type": "RegionStyleRegionsFromMask", "inputs": {"mask": ["3", 0], "phrase": "found", "style": ""},
    },
    "two": {
        "class_type": "RegionStyleRegionsFromMask",
        "inputs": {"mask": ["moved", 0], "phrase": "truth", "style": "", "regions": ["one", 0]},
    },
    "both": {"class_type": "RegionStylePreviewRegions", "inputs": {"image": ["2", 0], "regions": ["two", 0]}},
}  # fmt: skip
PAGES = {
    "RegionStyleTinyWorldLoader": Page(
        "restyle_by_sentence", (shown("2:0"),), "a scene of the tiny world: a cat, an orange triangle and a blue ring"
    ),
    "RegionStyleExpert": Page(
        "generate_with_expert",
        tuple(shown("8", _5_batch_size=1, _2_strength=strength) for strength in (0.0, 0.5, 1.0)),
        "one prompt and seed with the mosaic expert at strength 0, 0.5 and 1",
    ),
    "RegionStyleRestyle": Page(
        "restyle_by_attention",
        (shown("2:0", "7", "6"), shown("6", _5_strength=0.5)),
        "the picture, the attention, the triangle restyled at strength 0.2, and at 0.5",
    ),
    "RegionStyleRestyleSentence": Page(
        "restyle_by_sentence",
        (shown("2:0", "7", "6"),),
        "the picture, what was found, and the triangle in mosaic, the ring in halftone",
    ),
    "RegionStyleSmsStylize": Page(
        "sms_by_sentence", (shown("2:0", "7"),), "the picture, and the triangle optimised towards halftone"
    ),
    "RegionStyleLocalClipStyle": Page(
        "three_styles_three_things",
        (shown("2:0", "7", "6"),),
        "the picture, its regions, and the background as a pencil sketch, the ring in neon, and what the tiny CLIP "
        "takes for mosaic: a green triangle",
    ),
    "RegionStyleSmsApplyGenerator": Page(
        "sms_train_and_apply",
        (Shot((("2:0", 0), ("11", 0)), (PHOTOGRAPH,)),),
        "a photograph, and what the bundled watercolor generator paints in one pass",
    ),
    "RegionStyleRouteByPrompt": Page(
        "prompt_routed_styles",
        tuple(Shot((("12", 0),), (("2.value", text), ("9.batch_size", 1))) for text in PROMPTS),
        "one seed with the prompts “... in mosaic style” and “... in neon style”",
    ),
    "RegionStyleRouteByRegions": Page(
        "two_styles_two_things",
        (shown("2:0", "14", "13"),),
        "the picture, its regions with their styles, and both styles in one pass",
    ),
    "RegionStyleReadWithVlm": Page(
        "read_request_with_vlm", (shown("1:0", "7"),), "the picture, and what “what has three corners ...” was read as"
    ),
    "RegionStyleHarmonizeComposite": Page(
        "harmonize_paste", (shown("4", "3"),), "a photograph whose cup was pasted in dark and cold, and harmonised"
    ),
    "RegionStyleMatchColourStatistics": Page(
        "harmonize_paste",
        (shown("4", "6"), shown("6", _5_method="mkl"), shown("6", _5_method="histogram")),
        "a photograph whose cup was pasted in dark and cold, then with the background's statistics: Reinhard, MKL, "
        "histogram",
    ),
    "RegionStyleRandomPoissonBlend": Page(
        "make_harmony_pairs",
        (Shot((("5", 0), ("4", 0), ("4", 1))),),
        "a real picture, and two composites whose cup has the light of random places in another picture",
    ),
    "RegionStylePoissonBlend": Page(
        "make_harmony_pairs", (shown("1:0", "7"),), "the picture with the cup, and the cup blended into a scene"
    ),
    "RegionStyleAttentionGuidance": Page(
        "guided_layout",
        (shown("10"), shown("9", _5_step=0.0), shown("9")),
        "regions of another picture, what the prompt gives without guidance, and with it",
    ),
    "RegionStyleAttentionSampler": Page(
        "attention_supervised_sampler",
        (shown("9", _6_step=0.0), shown("9", "8")),
        "attention of both phrases over the steps without guidance, with it, and the result",
    ),
    "RegionStyleBackgroundLock": Page(
        "background_lock", (shown("2:0", "11"),), "the picture, and the ring drawn anew with everything else held"
    ),
    "RegionStyleAttentionMap": Page(
        "attention_map",
        (Shot((("2:0", 0), ("4", 0), ("4", 1), ("4", 2))),),
        "the picture, and the attention of orange triangle, blue ring and cat",
    ),
    "RegionStyleExpertStack": Page(
        "two_styles_two_things",
        (shown("2:0"), shown("13", _5_strength=0.0), shown("13")),
        "the picture, a stack whose second expert rests, and both experts on their things in one pass",
    ),
    "RegionStyleRegionalPrompts": Page(
        "two_styles_two_things",
        (shown("2:0"), *(from_noise(isolation, prompt) for isolation, prompt in ISOLATED)),
        "the picture whose regions are used, then a new one from noise, the triangle in mosaic and the ring in "
        "halftone: everything shared, own words, own prompts",
    ),
    "RegionStyleLoadGate": Page(
        "learnt_gate_styles",
        tuple(Shot((("17", 0),), (("2.value", text), ("14.batch_size", 1))) for text in GATED),
        "one seed, seven experts and the bundled gate, with the prompts “... in mosaic style”, “... in watercolor "
        "style” and “... in halftone style”",
    ),
    "RegionStyleMaskIoU": Page(
        "score_result",
        (Shot((("found", 0), ("truth", 0), ("both", 0)), nodes=tuple(MOVED.items())),),
        "the mask of a triangle, the same mask moved, and both over the picture: their IoU is 0.36",
    ),
    "RegionStyleParsePrompt": Page(
        "phrase_masks",
        (shown("2:0", "8"),),
        "the picture, and the things that the sentence names, found one by one",
    ),
    "RegionStyleSaveReport": Page(
        "score_result", (shown(),), "the beginning of a page: what was measured of a restyled triangle", report=True,
        draw=rows,
    ),
    "RegionStyleTrainExpert": Page(
        "expert_from_pictures_and_masks",
        (
            Shot((("2:0", 0), ("5", 0), ("20:1", 0)), STEPS, (("20", attention("1")),)),
            Shot((("22:1", 0),), STEPS, (("21", LEARNT), ("22", attention("21")))),
        ),
        "the picture before, after, and the attention of “mosaic” before and after 150 steps on this pair: it leaves "
        "the background",
    ),
    "RegionStyleTrainStyle": Page(
        "style_from_pictures",
        (Shot((*(("8", at) for at in range(3)), *(("16", at) for at in range(2))), (("9.steps", 200),)),),
        "three of ten pictures, and two that an expert trained on all ten draws",
    ),
    "RegionStyleEditByWords": Page(
        "edit_by_words",
        (shown("2:0", "5", "7", "4"),),
        "the picture, where the words of “make the orange triangle halftone” look, where the model wants the picture "
        "new, and the result",
    ),
    "RegionStyleLoadRegions": Page(
        "phrase_masks", (shown("8", "12"),), "regions as they were saved, and the largest of them after loading"
    ),
}  # fmt: skip


def save_within_limit(picture: Image.Image, path: Path) -> None:
    """As good as `LIMIT` bytes allow: small tiles of many colours take more than others."""
    for quality in (88, 84, 80, 75, 70):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LIMIT:
            return


def make(server: ComfyServer, node: str, models: Path) -> None:
    page = PAGES[node]
    prompt = json.loads((WORKFLOWS / "api" / f"{page.workflow}.json").read_text(encoding="utf-8"))
    if needs_networks(prompt):
        if not models.is_dir():
            models.mkdir()
            save_networks(models)
        put_networks(models, server)
    images = [image for shot in page.shots for image in pictures(server, prompt, shot)]
    if page.report:
        images.append(photographed(max(server.output_dir.rglob("*.html"))))
    save_within_limit(page.draw(images), DOCS / node / "example.jpg")
    put_into_page(DOCS / node / "en.md", f"![{page.says}]({node}/example.jpg)")


def photographed(page: Path) -> Image.Image:
    """The beginning of an HTML file as a Chromium shows it. RuntimeError without one."""
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise RuntimeError("no Chromium for the picture of a report: install one, or name it in CHROMIUM_PATH")
    picture = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=740,540"]
    subprocess.run([chromium, *options, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)
    return Image.open(picture).convert("RGB")


def put_into_page(page: Path, picture: str) -> None:
    """The line of the picture after the page's first paragraph, in the place of the one that was there."""
    paragraphs = [part for part in page.read_text(encoding="utf-8").split("\n\n") if not part.startswith("![")]
    page.write_text("\n\n".join([*paragraphs[:2], picture, *paragraphs[2:]]), encoding="utf-8")


def main() -> None:
    from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy
    from regionstyle.nodes.tinyworld.backgrounds import photograph_path

    comfy = find_comfy()
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfy, comfy_python(comfy), Path(folder) / "comfy")
        try:
            (server.input_dir / "chelsea.png").write_bytes(photograph_path("chelsea.png").read_bytes())
            for node in sys.argv[1:] or PAGES:
                make(server, node, Path(folder) / "models-of-networks")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
