"""Makes the pictures of the templates again, each from runs of its own workflow on a real ComfyUI.

    python tests/support/workflow_thumbnails.py [NAME ...]

A thumbnail is 512 px square. Where one run says little (a prompt that chooses among styles), the workflow runs with
several values. What needs weights that are not here runs with the small networks of `workflow_networks.py`, or with
what ships in their place (`thumbnail_stand_ins.py`).
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from thumbnail_stand_ins import standing_in
from workflow_files import SHEETS, WORKFLOWS, api_name
from workflow_networks import needs_networks, put_networks, save_networks

from comfy_server import ComfyServer

SIDE, GAP = 512, 8
Pictures = list[Image.Image]
Prompt = dict[str, Any]


@dataclass(frozen=True)
class Shot:
    """One run: the values that differ from the shipped ones ("3.sentence"), and which pictures of it are wanted.

    shows: (node, number of the picture); a node that shows nothing gets a preview of its output, as "9:3"; nodes: what
    this run has beside the workflow's, as (id, node).
    """

    shows: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, Any], ...] = ()
    nodes: tuple[tuple[str, Any], ...] = ()


def square(image: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, `side` pixels square."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)


def grid(count: int) -> Callable[[Pictures], Image.Image]:
    """Pictures in `count` columns and as many rows."""

    def draw(pictures: Pictures) -> Image.Image:
        sheet, cell = Image.new("RGB", (SIDE, SIDE), "white"), (SIDE - GAP * (count - 1)) // count
        for at, image in enumerate(pictures[: count * count]):
            sheet.paste(square(image, cell), ((at % count) * (cell + GAP), at // count * (cell + GAP)))
        return sheet

    return draw


def halves(pictures: Pictures) -> Image.Image:
    """The first picture below the diagonal, the second above it."""
    below, above = (square(image, SIDE) for image in pictures)
    mask = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(mask).polygon([(0, 0), (SIDE, 0), (SIDE, SIDE)], fill=255)
    sheet = Image.composite(above, below, mask)
    ImageDraw.Draw(sheet).line([(0, 0), (SIDE, SIDE)], fill="white", width=GAP)
    return sheet


def stacked(pictures: Pictures) -> Image.Image:
    """Wide pictures one below the other, at the full width, on white."""
    rows = [
        image.resize((SIDE, round(image.height * SIDE / image.width)), Image.Resampling.LANCZOS) for image in pictures
    ]
    free = max(SIDE - sum(row.height for row in rows), 0) // (len(rows) + 1)
    sheet, top = Image.new("RGB", (SIDE, SIDE), "white"), free
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + free
    return sheet


def over_pair(pictures: Pictures) -> Image.Image:
    """A wide picture at the full width over two squares, on white."""
    pair = Image.new("RGB", (SIDE, (SIDE - GAP) // 2), "white")
    for at, image in enumerate(pictures[1:]):
        pair.paste(square(image, pair.height), (at * (pair.height + GAP), 0))
    return stacked([pictures[0], pair])


def captioned(text: str) -> Callable[[Pictures], Image.Image]:
    """A picture with words over its upper edge."""

    def draw(pictures: Pictures) -> Image.Image:
        sheet = square(pictures[0], SIDE)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(26)
        lines = text.split("\n")
        pen.rectangle([(0, 0), (SIDE, 16 + 34 * len(lines))], fill=(20, 20, 24))
        for at, line in enumerate(lines):
            pen.text((14, 8 + 34 * at), line, fill="white", font=font)
        return sheet

    return draw


def prompts(node: str, latent: str, sampler: str, shown: str, *texts: str) -> tuple[Shot, ...]:
    """One run for each text, with one picture and a seed of its own."""
    alone = (f"{latent}.batch_size", 1)
    return tuple(
        Shot(((shown, 0),), ((f"{node}.value", text), alone, (f"{sampler}.seed", seed)))
        for seed, text in enumerate(texts)
    )


def one(node: str, *values: tuple[str, Any]) -> tuple[Shot, ...]:
    return (Shot(((node, 0),), values),)


SWAPPED = ("3.sentence", "make the orange triangle halftone and the blue ring mosaic")
PHOTOGRAPH = ("2.image", "chelsea.png")
RESTYLED = {"class_type": "MaskPreview", "inputs": {"mask": ["4", 1]}}
VIEWS: dict[str, tuple[tuple[Shot, ...], Callable[[Pictures], Image.Image]]] = {
    "restyle_by_sentence": (one("6"), grid(1)),
    "restyle_by_attention": ((Shot((("7", 0), ("6", 0))),), halves),
    "two_styles_two_things": ((Shot((("14", 0), ("13", 0))), Shot((("13", 0), ("14", 0)), (SWAPPED,))), grid(2)),
    "generate_with_expert": ((Shot(tuple(("8", at) for at in range(4))),), grid(2)),
    "prompt_routed_styles": (
        prompts(
            "2", "9", "10", "12", "a red star on plain background in mosaic style",
            "a blue heart on plain background in pixel art style", "a green circle on plain background in mosaic style",
            "a purple star on plain background in pixel art style",
        ),
        grid(2),
    ),
    "learnt_gate_styles": (
        prompts(
            "2", "14", "15", "17", *(
                f"a {thing} on plain background in {style} style" for thing, style in (
                    ("red star", "mosaic"), ("blue heart", "pixel art"), ("green moon", "pencil sketch"),
                    ("purple ring", "halftone"), ("orange triangle", "oil paint"), ("pink circle", "watercolor"),
                    ("cyan cross", "mosaic"), ("yellow square", "pixel art"), ("blue star", "watercolor"),
                )
            ),
        ),
        grid(3),
    ),
    "style_from_pictures": (
        (Shot((*(("8", at) for at in range(6)), *(("16", at) for at in range(3))), (("9.steps", 200),)),),
        grid(3),
    ),
    "sms_stylize": (one("5"), grid(1)),
    "sms_by_sentence": (one("7"), grid(1)),
    "sms_train_and_apply": ((Shot((("2:0", 0), ("11", 0)), (PHOTOGRAPH,)),), halves),
    "phrase_masks": (one("8"), grid(1)),
    "three_regions": ((Shot((("5", 0), ("12", 0), ("13", 0), ("14", 0))),), grid(2)),
    "refine_masks": ((Shot((("2:0", 0), ("9", 0), ("11", 0), ("13", 0))),), grid(2)),
    "text_grounded_masks": ((Shot((("8", 0), ("6", 0))),), halves),
    "detect_and_segment": ((Shot((("7", 0), ("8", 0))),), halves),
    "read_request_with_vlm": (one("7"), captioned("“what has three corners: mosaic,\n the round thing: like neon”")),
    "harmonize_paste": ((Shot((("4", 0), ("3", 0))),), halves),
    "restyle_then_harmonize": (one("7"), grid(1)),
    "harmonize_to_reference": ((Shot((("5", 0), ("6", 0))),), halves),
    "make_harmony_pairs": ((Shot((("4", 0), ("4", 1), ("5", 0), ("7", 0))),), grid(2)),
    "guided_layout": ((Shot((("10", 0), ("9", 0))),), halves),
    "attention_supervised_sampler": ((Shot((("9", 0), ("2:0", 0), ("8", 0))),), over_pair),
    "background_lock": (one("11"), grid(1)),
    "attention_map": ((Shot((("4", 0), ("4", 1), ("4", 2), ("6", 1))),), grid(2)),
    "three_styles_three_things": ((Shot((("6", 0),)),), grid(1)),
    "untrained_style_on_a_photograph": (
        (Shot((("2:0", 0), ("4", 0))),), halves,
    ),
    "expert_from_pictures_and_masks": (
        (Shot((("2:0", 0), ("5", 0), ("mask", 0), ("14", 0)), nodes=(("mask", RESTYLED),)),), grid(2),
    ),
    "edit_by_words": ((Shot((("2:0", 0), ("5", 0), ("7", 0), ("4", 0))),), grid(2)),
    "guided_sd1.5": ((Shot((("10", 0), ("9", 0))),), halves),
    "kontext_with_published_experts": ((Shot((("2:0", 0), ("5", 0))),), halves),
    "checkpoint_lora_by_phrase": ((Shot((("2:0", 0), ("3:1", 0), ("7", 0), ("6", 0))),), grid(2)),
    "checkpoint_lora_painted_mask": (one("5"), grid(1)),
    "several_loras_several_things": ((Shot((("6", 0), ("7", 0))),), halves),
    "score_result": ((Shot((("6", 0), ("8:3", 0))),), stacked),
    # with random networks there is nothing to see but the picture itself
    "clear_vae_decode": (one("1:0"), captioned("with R2R's files: a latent decoded\nwith this picture's own detail")),
}  # fmt: skip


def with_values(prompt: Prompt, shot: Shot) -> Prompt:
    """The prompt of one run, with previews of what shows nothing by itself."""
    prompt = copy.deepcopy({**prompt, **dict(shot.nodes)})
    for place, value in shot.values:
        node, _, name = place.partition(".")
        prompt[node]["inputs"][name] = value
    for node, _ in shot.shows:
        source, colon, output = node.partition(":")
        if colon:
            prompt[node] = {"class_type": "PreviewImage", "inputs": {"images": [source, int(output)]}}
    return prompt


def pictures(server: ComfyServer, prompt: Prompt, shot: Shot) -> Pictures:
    """What a run shows, in the order that is wanted. RuntimeError with ComfyUI's own words when it fails."""
    history = server.wait(server.post(with_values(prompt, shot)), 900)
    if history["status"]["status_str"] != "success":
        raise RuntimeError(str(history["status"]))
    found = {node: server.images({"outputs": {node: output}}) for node, output in history["outputs"].items()}
    return [Image.open(found[node][at]).convert("RGB") for node, at in shot.shows]


def make(server: ComfyServer, title: str, networks: Callable[[], Path]) -> None:
    name = api_name(title)
    prompt = standing_in(name, json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")))
    if needs_networks(prompt):
        put_networks(networks(), server)
    shots, draw = VIEWS[name]
    drawn = draw([image for shot in shots for image in pictures(server, prompt, shot)])
    drawn.save(WORKFLOWS / f"{title}.jpg", quality=88, optimize=True)


def main() -> None:
    from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy
    from regionstyle.nodes.tinyworld.backgrounds import photograph_path

    comfy = find_comfy()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models-of-networks"

        def networks() -> Path:
            if not models.is_dir():
                models.mkdir()
                save_networks(models)
            return models

        server = ComfyServer(comfy, comfy_python(comfy), Path(folder) / "comfy")
        try:
            (server.input_dir / "chelsea.png").write_bytes(photograph_path("chelsea.png").read_bytes())
            for title in SHEETS:
                if not sys.argv[1:] or api_name(title) in sys.argv[1:]:
                    make(server, title, networks)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
