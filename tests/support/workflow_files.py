"""Writes what the browser opens: workflows/*.json, laid out from workflows/api/*.json, with a note above each.

    python tests/support/workflow_files.py [NAME ...]

Needs a ComfyUI (found as the tests find it), which says what inputs and widgets every node has. Columns of nodes,
titles and notes are in `SHEETS` below; pictures of the templates are made by `workflow_thumbnails.py`. What is written
holds no null: ComfyUI 0.3.64 shows an alert over a quarter of the screen for a file with some.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from comfy_server import ComfyServer

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
WEIGHTS = "Weights: the tiny world that ships with this pack, MIT. Nothing is downloaded."
PASTED = "Nothing is downloaded. Picture: coffee by Rachel Michetti, public domain, out of scikit-image."
PHOTO = "Picture: the cat Chelsea by Stefan van der Walt, CC0, out of scikit-image."
SAM_H = (
    "`sam_vit_h_4b8939.pth` in `models/sams` (Segment Anything, Apache-2.0; `sam_vit_b_01ec64.pth` is smaller). "
    "`regionstyle download"
)

CHECKPOINT = (
    "Weights: `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (Stable Diffusion 1.5, CreativeML Open "
    "RAIL-M), which `regionstyle download sd15` fetches; any SD1.5 or SDXL checkpoint will do."
)
LORAS = (
    f"{CHECKPOINT} LoRAs: your own in `models/loras`, made for that checkpoint; their licence is what their authors "
    "say. Name yours in *Attach Style Expert*."
)
KONTEXT = (
    "Weights: `regionstyle download flux1-kontext regionroute-experts` fetches all of them. FLUX.1 Kontext [dev]: "
    "FLUX.1 [dev] Non-Commercial License of Black Forest Labs, which holds for experts made for it too; CLIP-L MIT, "
    "T5-XXL and autoencoder Apache-2.0. RegionRoute's experts in `models/loras/regionroute` (bwchen05/RegionRoute, "
    "release v1.0): their authors state no licence of their own."
)

# Inputs that name a file of the catalogue of public weights: the front end offers those that are missing. Folders
# cannot be offered, since it compares with names of files; nor what lies on GitHub, which it does not fetch from.
LOADERS = {
    "RegionStyleLoadSam": ("file",), "CheckpointLoaderSimple": ("ckpt_name",), "UNETLoader": ("unet_name",),
    "DualCLIPLoader": ("clip_name1", "clip_name2"), "VAELoader": ("vae_name",),
}  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """One workflow: its columns of nodes by their ids in the API form, and the text of its note."""

    note: str
    columns: tuple[tuple[int, ...], ...]
    weights: str = WEIGHTS


# Title, as the list of templates shows it and sorts it -> its sheet. The API form has the same name in small letters.
SHEETS = {
    "01 Restyle by Sentence": Sheet(
        "Finds every thing that the sentence names and restyles each by its own mask; the rest stays as it "
        "is, bit for bit. "
        "Change the sentence, and attach an expert for every style it uses.",
        ((1, 2), (3, 4), (5,), (6,), (7,)),
    ),
    "02 Restyle by Attention": Sheet(
        "The same in steps: the model's own attention finds the words of *phrase*, the style's expert "
        "redraws that mask. "
        "Put any mask in its place.",
        ((1, 2), (3, 4), (5,), (6,), (7,)),
    ),
    "03 Two Styles Two Things": Sheet(
        "Two styles on two things in one pass: each expert acts in its own region, and each region reads its "
        "own prompt.",
        ((1, 2), (4, 5, 3), (6, 7), (8, 9, 14), (10, 11), (12, 13)),
    ),
    "04 Generate with Expert": Sheet(
        "Stock nodes around one style expert: pictures from a prompt, the model's weights untouched.",
        ((1, 5), (2, 3, 4), (6,), (7, 8)),
    ),
    "05 Prompt Routed Styles": Sheet(
        "The prompt chooses the experts: those whose style is near to its words act, the others rest.",
        ((1, 2, 9), (3, 4, 5), (6, 7, 8), (10,), (11, 12)),
    ),
    "06 Learnt Gate Styles": Sheet(
        "A small trained network reads the prompt and weighs seven experts.",
        ((1, 2, 10, 14), (3, 4, 5, 6), (7, 8, 9), (11, 12, 13), (15,), (16, 17)),
    ),
    "07 Style from Pictures": Sheet(
        "Ten pictures to a style expert, then pictures with it. Forty steps show how it goes; a few hundred "
        "learn a style. "
        "For your own pictures name a folder inside ComfyUI's input folder in *folder*.",
        ((1, 5, 13), (2, 3, 4, 12), (6, 7), (8, 9), (10, 11), (14, 15), (16,)),
    ),
    "08 SMS Stylize": Sheet(
        "Optimises the whole picture towards the expert's style while its content is held (style matching score).",
        ((1, 2), (3,), (4,), (5,), (6, 7)),
    ),
    "09 SMS by Sentence": Sheet(
        "The same for one thing: the sentence finds it, and only its region is optimised.",
        ((1, 2), (3, 5), (4, 6), (7,), (8,)),
    ),
    "10 SMS Train and Apply": Sheet(
        "Teaches a small network to paint a style in one pass, and applies the one that ships. Six "
        "iterations show how it "
        "goes; for a real result give a folder of photographs and 1000 iterations.",
        ((1, 2), (3, 9, 10), (4,), (5, 6), (7, 8), (11,)),
        f"{WEIGHTS} {PHOTO}",
    ),
    "11 Phrase Masks": Sheet(
        "Every phrase of a sentence to a region with its own mask; saved to a file, loaded again, and picked by size.",
        ((1, 2), (3, 4), (5, 6, 8), (7, 9, 10), (11, 12)),
    ),
    "12 Three Regions": Sheet(
        "Two things and the background as regions that do not overlap, each with its mask.",
        ((1, 2), (3, 4), (5,), (6, 7, 8), (9, 12), (10, 13), (11, 14)),
    ),
    "13 Refine Masks": Sheet(
        "A mask from attention made better: hardened, filled, freed of specks, feathered; its complement "
        "becomes a second "
        "region.",
        ((1, 2), (3,), (4, 5), (10, 11), (12, 13), (6, 7, 8), (9,)),
    ),
    "14 Text Grounded Masks": Sheet(
        "Sentence and picture to one mask per thing: attention finds the things, Segment Anything outlines them.",
        ((1, 2), (3, 4), (5,), (6,), (7, 8)),
        f"{WEIGHTS} The tiny Segment Anything ships likewise.",
    ),
    "15 Detect and Segment": Sheet(
        "Phrases to boxes with Grounding DINO, boxes to masks with Segment Anything: for photographs.",
        ((1, 2), (4, 3, 5), (6,), (7,), (8,)),
        "Needs all files of IDEA-Research/grounding-dino-tiny (Apache-2.0) in "
        "`models/grounding_dino/grounding-dino-tiny` and "
        f"{SAM_H} grounding-dino-tiny sam-vit-h` fetches both.",
    ),
    "16 Read Request with VLM": Sheet(
        "A request in free words: a vision-language model reads it and the picture, Segment Anything "
        "outlines what it means.",
        ((1, 2), (4, 3, 5), (6,), (7,), (8,)),
        "Needs all files of Qwen/Qwen2.5-VL-7B-Instruct (Apache-2.0) in `models/LLM/Qwen2.5-VL-7B-Instruct` and "
        f"{SAM_H} qwen2.5-vl-7b sam-vit-h` fetches both.",
    ),
    "17 Score Result": Sheet(
        "Restyles a thing, then measures the result beside its source, compares side by side, and saves a report.",
        ((1, 2), (3, 4), (5, 7), (8, 10), (9, 11), (6,)),
    ),
    "18 Harmonize Paste": Sheet(
        "Gives a pasted thing the light and colours around it, by the small network that comes with the pack. The mask "
        "is the picture's transparency; connect any other. Beside it what colour statistics make of it.",
        ((1, 4), (2, 5), (3, 6)),
        PASTED,
    ),
    "19 Restyle Then Harmonize": Sheet(
        "Restyles what the sentence names, then fits it to the light around it.",
        ((1, 2), (3, 4), (5,), (6,), (7, 8)),
    ),
    "20 Harmonize to Reference": Sheet(
        "The foreground takes the light and colours of another picture instead of its surroundings. Connect a mask to "
        "use a part of the reference.",
        ((1, 2), (3, 4), (5, 6)),
        PASTED,
    ),
    "21 Make Harmony Pairs": Sheet(
        "Composites with a known truth, for training a harmoniser (Random Poisson Blending): the foreground takes the "
        "light of a random place in a donor. Below, the same solver pastes it there.",
        ((1, 2), (3, 6), (4, 5, 7)),
        PASTED,
    ),
    "22 Clear VAE Decode": Sheet(
        "A latent decoded twice: as usual, and by R2R's Clear-VAE with the picture's own fine detail. Put any SD1.x "
        "editing between encoding and decoding.",
        ((1, 2, 3), (4,), (5, 6), (7, 8)),
        "Needs stabilityai/sd-vae-ft-mse-original's `vae-ft-mse-840000-ema-pruned.safetensors` (MIT) in `models/vae` "
        "and R2R's published files, which state no licence, in `models/regionstyle_r2r/region2region`. "
        "`regionstyle download vae-ft-mse region2region` fetches both.",
    ),
    "23 Guided Layout": Sheet(
        "Draws a new picture with things where another picture has them: words of the prompt are held to their "
        "regions by their attention, while a stock KSampler runs. Nothing is trained. Set *step* to 0 to see the "
        "picture without it.",
        ((1, 2), (3, 10), (5, 4, 6), (7,), (8, 9)),
    ),
    "24 Attention Supervised Sampler": Sheet(
        "Guidance, background lock and sampler in one node: the thing is drawn anew in its style, everything outside "
        "it stays; attention and losses of every step beside it.",
        ((1, 2), (3, 4, 5), (6,), (7, 9, 10), (8,)),
    ),
    "25 Background Lock": Sheet(
        "A stock KSampler that changes nothing outside a mask: the rest of the latent is held at every step.",
        ((1, 2), (3, 4, 5), (6, 7, 8), (9,), (10, 11)),
    ),
    "26 Attention Map": Sheet(
        "Where the model looks for each phrase of a prompt, at one noise level. Change *level* and *layers* to see how "
        "it knows what is where before it knows the details.",
        ((1, 2), (3,), (4, 5), (6,)),
    ),
    "27 Three Styles Three Things": Sheet(
        "Three styles on three things from one sentence, without any expert: each region is optimised until CLIP sees "
        "the words in it. A public CLIP in *Load CLIP for Local Style* knows any style; the tiny one "
        "knows eight, by their light and contrast. For a public one: preset improved, rate 0, patch 100, 64 patches, "
        "100 to 200 iterations.",
        ((1, 2), (3, 4, 7), (5,), (6, 8)),
    ),
    "28 Untrained Style on a Photograph": Sheet(
        "A style that no expert was trained for, by its word alone, on a photograph: load one of yours, draw a mask "
        "and connect it, or let the whole picture change. "
        "The tiny CLIP knows only what its word does to colours. For a public one: preset improved, "
        "rate 0, patch 100, 64 patches, 100 to 200 iterations.",
        ((1, 2), (3,), (4, 5, 6)),
        f"{WEIGHTS} {PHOTO}",
    ),
    "29 Expert from Pictures and Masks": Sheet(
        "Teaches an expert where its style belongs: pictures before and after, and the masks of what was restyled. "
        "Here the pair is made on the spot. Thirty steps show how it goes; "
        "a hundred pairs and some thousand steps teach a style. "
        "For your own pairs name a manifest inside ComfyUI's input folder in *manifest*.",
        ((1, 2), (3,), (4, 5), (6,), (7, 8), (9, 10, 11), (12, 13), (14,)),
    ),
    "30 Edit by Words": Sheet(
        "An instruction edits the picture, and no mask says where: the model is shown the picture, reads what to make "
        "of it, and decides itself. All of the picture is drawn anew; switch *composite* on to keep the rest bit for "
        "bit. Name a shape, with or without its colour, and a style.",
        ((1, 2), (3,), (4, 5, 6), (7,)),
    ),
    "31 Guided SD1.5": Sheet(
        "A new picture by a real checkpoint with the thing where you painted: the words of *phrase* are held to the "
        "mask by the model's own attention, while a stock KSampler runs. Paint in ComfyUI's mask editor; name the "
        "thing in *phrase* and in *prompt*. *form* bias costs less; *step* 0 is the picture without guidance.",
        ((1, 2), (3, 4, 6), (5, 10), (7,), (8, 9)),
        CHECKPOINT,
    ),
    "32 Kontext with Published Experts": Sheet(
        "FLUX.1 Kontext edits the picture by an instruction, and RegionRoute's expert for the style acts on the "
        "painted thing alone, in the new picture and in the reference. *style* in *Regions from Mask* chooses among "
        "the four experts; the prompt must name it too. What is outside the mask stays, bit for bit at Kontext's size.",
        ((1, 2, 3), (4, 6, 9), (5, 7, 10), (8, 13, 11), (14, 16, 12), (15, 17, 18, 19), (20,), (21, 22), (23,)),
        KONTEXT,
    ),
    "33 Checkpoint LoRA by Phrase": Sheet(
        "Your own checkpoint and a style LoRA on the thing a phrase names. Load a picture, name the thing in *phrase* "
        "and in *prompt*. *strength* says how far to go.",
        ((1, 2), (3, 4), (5, 7), (6,)),
        LORAS,
    ),
    "34 Checkpoint LoRA Painted Mask": Sheet(
        "The same on a mask painted by hand: load your picture, open it in ComfyUI's mask editor from its menu, paint, "
        "save. The picture that comes with the pack has one.",
        ((1, 2), (3,), (4,), (5,)),
        LORAS,
    ),
    "35 Several LoRAs Several Things": Sheet(
        "Several style LoRAs on several things of one picture: attach a LoRA for every style of the sentence. A style "
        "is known by the words its file tells, by its name, or by what stands in *style_words*.",
        ((1, 2), (3, 4), (5,), (6, 7)),
        LORAS,
    ),
}  # fmt: skip

WIDTH, GAP, COLUMN_GAP, TOP = 320, 70, 80, 60  # pixels at scale 1; a node's title stands 30 above its position
WIDE = {"RegionStyleScore": 420, "RegionStyleCompare": 420, "RegionStyleSmsTrainGenerator": 420}
PREVIEW = 330  # height of a picture in a node
MESSAGE = 70  # of what a node says: the front end takes it from the node's text boxes
WIDGETS = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
SHOWS = frozenset({
    "LoadImage", "SaveImage", "PreviewImage", "RegionStylePreviewRegions", "RegionStyleCompare",
})  # fmt: skip
# Nodes that show previews while they work, and keep the last one.
GROWS = frozenset({
    "KSampler", "RegionStyleRestyle", "RegionStyleRestyleSentence", "RegionStyleSmsStylize", "RegionStyleTrainStyle",
    "RegionStyleSmsTrainGenerator", "RegionStyleSmsApplyGenerator", "RegionStyleHarmonizeComposite",
    "RegionStyleMatchColourStatistics", "RegionStyleRandomPoissonBlend",
    "RegionStyleAttentionSampler", "RegionStyleTrainExpert",
    "RegionStyleLocalClipStyle",
})  # fmt: skip


def api_name(title: str) -> str:
    """The name of the API form: "01 Restyle by Sentence" -> "restyle_by_sentence"."""
    return re.sub(r"^\d+ ", "", title).lower().replace(" ", "_")


def kind_of(spec: list) -> str:
    """The type of an input as /object_info gives it; a list of choices is COMBO."""
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def is_widget(spec: list) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return kind_of(spec) in WIDGETS and not options.get("forceInput")


def inputs_of(definition: dict) -> dict[str, list]:
    """Name -> specification of all inputs in their order."""
    given = definition["input"]
    return {**given.get("required", {}), **given.get("optional", {})}


def widget_values(node: dict, definition: dict) -> list:
    """What the browser keeps of a node: every widget's value in order, with the ones that the front end adds itself."""
    values = []
    for name, spec in inputs_of(definition).items():
        if not is_widget(spec):
            continue
        options = spec[1] if len(spec) > 1 else {}
        given = node["inputs"].get(name)
        choices = (spec[0] if isinstance(spec[0], list) else options.get("options")) or [""]
        empty = {"COMBO": choices[0], "STRING": "", "BOOLEAN": False}.get(kind_of(spec), 0)
        values.append(options.get("default", empty) if given is None or isinstance(given, list) else given)
        if options.get("control_after_generate") or name in ("seed", "noise_seed"):
            values.append("fixed")
        if options.get("image_upload"):
            values.append("image")
    return values


def sockets(node: dict, definition: dict, links: dict[tuple[str, str], int]) -> list[dict]:
    """The inputs of a node; widgets are inputs too, which a link may take over."""
    optional, shown = definition["input"].get("optional", {}), []
    for name, spec in inputs_of(definition).items():
        slot = {"name": name, "type": kind_of(spec)}
        slot |= {"widget": {"name": name}} if is_widget(spec) else {"shape": 7} if name in optional else {}
        shown.append(slot | ({"link": links[node["id"], name]} if (node["id"], name) in links else {}))
    # Sockets stand above widgets, as the front end puts them.
    return [slot for slot in shown if "widget" not in slot] + [slot for slot in shown if "widget" in slot]


def body_height(kind: str, definition: dict) -> int:
    """Height in pixels without a picture, enough for both renderings of the front end."""
    specs = inputs_of(definition)
    widgets = [spec for spec in specs.values() if is_widget(spec)]
    texts = sum(bool((spec[1] if len(spec) > 1 else {}).get("multiline")) for spec in widgets)
    seeds = sum(name in ("seed", "noise_seed") for name in specs)
    rows = max(len(specs) - len(widgets), len(definition["output"]))
    upload = 34 if kind == "LoadImage" else 0
    text = 110 if kind == "PreviewAny" else MESSAGE if texts and kind.startswith("RegionStyle") else 0
    return 20 * rows + 28 * (len(widgets) - texts + seeds) + 110 * texts + upload + text + 50


def note_node(sheet: Sheet, number: int, width: int) -> dict:
    """The note, so high that its text fits, its lower edge well above the first row."""
    text = f"{sheet.note}\n\n{sheet.weights}"
    lines = sum(math.ceil(len(part) / (width / 6.2)) + 1 for part in text.split("\n\n"))
    height = 40 + 20 * lines
    return {
        "id": number, "type": "MarkdownNote", "pos": [20, TOP - 30 - GAP - height], "size": [width, height],
        "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": "What this does", "properties": {},
        "widgets_values": [text], "color": "#432", "bgcolor": "#653",
    }  # fmt: skip


def places(sheet: Sheet, api: dict, definitions: dict) -> dict[str, tuple[list[int], list[int]]]:
    """Node id -> position and size: columns from left to right, room for pictures that come later."""
    left, placed = 20, {}
    for column in sheet.columns:
        kinds = [api[str(number)]["class_type"] for number in column]
        titles = [len(api[str(number)]["_meta"]["title"]) for number in column]
        width, top = max(*(WIDE.get(kind, WIDTH) for kind in kinds), 8 * max(titles) + 40), TOP
        for number, kind in zip(column, kinds, strict=True):
            height = body_height(kind, definitions[kind]) + (PREVIEW if kind in SHOWS else 0)
            placed[str(number)] = ([left, top], [width, height])
            top += height + (PREVIEW if kind in GROWS else 0) + 30 + GAP
        left += width + COLUMN_GAP
    return placed


def public_files(node: dict) -> dict[str, list[dict[str, str]]]:
    """The property with what the front end offers when a loader's file is missing: name, address, folder of models/."""
    from regionstyle.nodes.app.downloads.catalogue import load_catalogue

    parts = [part for model in load_catalogue().models.values() for part in model.parts]
    offered = {
        name: {"name": name, "url": part.address(file), "directory": part.folder}
        for name in (node["inputs"][given] for given in LOADERS.get(node["class_type"], ()))
        for part in reversed(parts)  # the first that has it stays
        for file in part.files
        if part.place(file).name == name
    }
    return {"models": list(offered.values())} if offered else {}


def browser_form(title: str, api: dict, definitions: dict) -> dict:
    """The UI form of a workflow. KeyError where a column names a node that is not there, or leaves one out."""
    sheet = SHEETS[title]
    placed = places(sheet, api, definitions)
    if left_out := set(api) - set(placed):
        raise KeyError(f"{title}: nodes in no column: {sorted(left_out)}")
    api = {key: {**node, "id": key} for key, node in api.items()}
    edges = [
        (key, name, value)
        for key, node in api.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    ]
    numbers = {(key, name): at for at, (key, name, _) in enumerate(edges, 1)}
    nodes = []
    for order, (key, node) in enumerate(sorted(api.items(), key=lambda pair: int(pair[0]))):
        kind = node["class_type"]
        definition = definitions[kind]
        outputs = [
            {
                "name": name,
                "type": made,
                "links": [numbers[to, at] for to, at, (source, slot) in edges if (source, slot) == (key, index)],
            }
            for index, (name, made) in enumerate(zip(definition["output_name"], definition["output"], strict=True))
        ]
        nodes.append({
            "id": int(key), "type": kind, "pos": placed[key][0], "size": placed[key][1], "flags": {}, "order": order,
            "mode": 0, "inputs": sockets(node, definition, numbers), "outputs": outputs,
            "title": node["_meta"]["title"],
            "properties": {"Node name for S&R": kind, **public_files(node)},
            "widgets_values": widget_values(node, definition),
        })  # fmt: skip
    slot_of = {node["id"]: [slot["name"] for slot in node["inputs"]] for node in nodes}
    links = [
        [
            numbers[key, name],
            int(source),
            slot,
            int(key),
            slot_of[int(key)].index(name),
            definitions[api[source]["class_type"]]["output"][slot],
        ]
        for key, name, (source, slot) in edges
    ]
    return {
        "id": "00000000-0000-0000-0000-000000000000", "revision": 0, "last_node_id": len(nodes) + 1,
        "last_link_id": len(links), "nodes": [*nodes, note_node(sheet, len(nodes) + 1, 2 * WIDTH + COLUMN_GAP)],
        "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def write_all(definitions: dict, names: list[str]) -> None:
    for title in SHEETS:
        if names and api_name(title) not in names:
            continue
        api = json.loads((WORKFLOWS / "api" / f"{api_name(title)}.json").read_text(encoding="utf-8"))
        text = json.dumps(browser_form(title, api, definitions), indent=1, ensure_ascii=False)
        (WORKFLOWS / f"{title}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy

    comfy = find_comfy()
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfy, comfy_python(comfy), Path(folder))
        try:
            write_all(server.get("/object_info"), sys.argv[1:])
        finally:
            server.stop()


if __name__ == "__main__":
    main()
