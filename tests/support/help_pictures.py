"""Makes pictures of help pages, each from runs of shipped workflows on a real ComfyUI.

    python tests/support/help_pictures.py [NODE_ID ...]

A picture is a strip of squares, 192 px each, as nodes/web/docs/<NodeId>/example.jpg; the page's text says what stands
where. Pages that are not in `PAGES` have pictures that were made otherwise, or need none.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from workflow_files import WORKFLOWS
from workflow_networks import needs_networks, put_networks, save_networks
from workflow_thumbnails import PHOTOGRAPH, Shot, pictures, square

from comfy_server import ComfyServer

DOCS = WORKFLOWS.parent / "nodes" / "web" / "docs"
SIDE, GAP = 192, 8


@dataclass(frozen=True)
class Page:
    """The workflow that a page's picture comes from, its runs, and the text that stands for the picture."""

    workflow: str
    shots: tuple[Shot, ...]
    says: str


def shown(*nodes: str, **values: object) -> Shot:
    """The first picture of some nodes; values: `_3_strength=0.5` for input strength of node 3."""
    changed = tuple((name[1:].replace("_", ".", 1), value) for name, value in values.items())
    return Shot(tuple((node, 0) for node in nodes), changed)


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
        (shown("2:0", "7", "6", _5_iterations=60),),
        "the picture, its regions, and the triangle in mosaic, the ring in neon, the background as a pencil sketch",
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
        (
            Shot(tuple(("8", at) for at in range(3)), (("9.steps", 200),)),
            Shot((("16", 0),), (("9.steps", 200), ("14.model", ["1", 0]))),
            Shot((("16", 0),), (("9.steps", 200),)),
        ),
        "three of ten pictures, and one prompt and seed without the new expert and with it, after 200 steps",
    ),
    "RegionStyleLoadRegions": Page(
        "phrase_masks", (shown("8", "12"),), "regions as they were saved, and the largest of them after loading"
    ),
}  # fmt: skip


def strip(images: list[Image.Image]) -> Image.Image:
    """Squares beside each other on white."""
    sheet = Image.new("RGB", (len(images) * (SIDE + GAP) - GAP, SIDE), "white")
    for at, image in enumerate(images):
        sheet.paste(square(image, SIDE), (at * (SIDE + GAP), 0))
    return sheet


def make(server: ComfyServer, node: str, models: Path) -> None:
    page = PAGES[node]
    prompt = json.loads((WORKFLOWS / "api" / f"{page.workflow}.json").read_text(encoding="utf-8"))
    if needs_networks(prompt):
        if not models.is_dir():
            models.mkdir()
            save_networks(models)
        put_networks(models, server)
    images = [image for shot in page.shots for image in pictures(server, prompt, shot)]
    strip(images).save(DOCS / node / "example.jpg", quality=88, optimize=True)
    put_into_page(DOCS / node / "en.md", f"![{page.says}]({node}/example.jpg)")


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
