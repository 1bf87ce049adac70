"""The commands of the command line and what each accepts: one function per command.

Nothing heavy is imported here, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ...engine.settings.setting import override, settings_of
from ...engine.training.settings import TrainSettings
from ...grounding.settings import OutlineSettings
from ...local_clip.settings import ELSEWHERE, OF_PRESET, LocalClipSettings
from ...metrics.settings import RegionalStyleSettings
from ...router.settings import CropSettings, GateSettings, RestyleSettings
from ...sms.presets import REFERENCE
from ...sms.settings import GENERATOR_RATES, ApplySettings, DistillSettings, SmsSettings, StyleStrength
from ..sms import TINY_USUAL, sms_settings
from .arguments import DEFAULT, Parser, add_command, add_device, assignment, box, minutes, positive
from .expert_commands import add_train_expert
from .harmony_commands import add_train_harmonizer
from .r2r_commands import add_train_r2r
from .setting_options import add_method_options, add_setting_options, add_unset_options

# metrics/datasets/catalogue.py has the same names; a test compares them
DATASETS = ("coco", "voc", "big", "least", "pie-bench", "lhq", "iharmony4", "realhm")
MODEL = "a folder in diffusers layout with a model of the SD1.5, SDXL, SD3 or FLUX class"
GENERATOR = "paints in one pass at full size (default: a bundled one, for large pictures in its style); off: the expert"
WHOLE = "the whole picture"
METHOD = (
    "expert: the style's expert repaints it; clip: optimised towards the words, for any style; sms: optimised by the "
    "style's expert, slower than expert, and more of the content is kept; edit: the tiny world "
    "draws the whole picture anew as the words want it, no mask takes part, and the rest is close but not equal"
)
COMPOSITE = "with --method edit: lay it over the picture by the mask that was found, so that the rest stays bit for bit"
CLIP = "a CLIP in the transformers layout, with torchvision's VGG-19 file in it or beside it (default: the tiny one)"
START_IMAGE = "what the things are at first: another method's result for the same picture; best with --optimise pixels"
ALIKE = "Let every place change alike, without a relevance map"
CLIP_OPTIONS = tuple(name for name in settings_of(LocalClipSettings) if name not in ELSEWHERE)
CLIP_UNSET = {
    **dict.fromkeys(OF_PRESET, "the preset's"),
    "size": "what suits the networks, 512 or the tiny ones' 128",
    "preset": "improved, and improved-tiny without --clip",
    "rate": "0.0005 for a network, 0.01 for pixels, 0.05 for a latent",
    "preview_every": "none are written",
}
CLIP_HELP = {  # where the command line does it in its own way
    "keep_best": override(help="Write nothing on Ctrl-C, which otherwise ends it with the best picture so far"),
    "preview_every": override(help="Iterations between two previews, written into a folder of the output's name"),
}
SMS_HELP = {"relevance": override(help=ALIKE), "preview_every": CLIP_HELP["preview_every"]}
EXPERT = "the style's LoRA, for your own model: a .safetensors file or a PEFT folder"

OUTLINE = "How the thing in --box is outlined (default: sam where it is given, else grabcut where OpenCV is installed)"
MODELS_FOLDER = "models folder (default: that of the ComfyUI on this machine, else in the user's cache)"
SAM = "Segment Anything outlines what is found: a file of its authors (sam_vit_b_01ec64.pth), or the pack's small one"
DETECTOR = "Grounding DINO finds the things, instead of the model's attention: its folder; with --sam"


def add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "demo", "Restyle one object of a bundled picture and write every step as an image.")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-demo"), metavar="DIR", help=DEFAULT)
    add_setting_options(parser, RestyleSettings, "seed")
    parser.add_argument("--scene", type=int, metavar="N", help="another picture (default: the demo's own)")
    parser.add_argument("--style", help="another style (default: the one of the demo's sentence)")
    add_device(parser)


def add_stylize(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "stylize", "Restyle one thing, one region or the whole of your own picture.")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument(
        "prompt", metavar="PROMPT", help='for example "make the red ball pixel art"; with a region "pixel art"'
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    _add_region(parser)
    add_setting_options(parser, OutlineSettings, outline=override(default=None, help=OUTLINE))
    parser.add_argument("--sam", metavar="FILE|tinyworld", help=SAM)
    parser.add_argument("--detector", type=Path, metavar="FOLDER", help=DETECTOR)
    parser.add_argument("--style", help="the style, when the prompt does not name it")
    add_setting_options(parser, RestyleSettings, "seed")
    strength = override(default=None, help="How far to go, 0 (not at all) to 1 (default: what suits model and style)")
    steps = override(default=None, help="Sampling steps (default: what suits the model)")
    cfg = override(default=None, help="Classifier-free guidance scale, 1: off (default: what suits the model)")
    add_setting_options(parser, RestyleSettings, strength=strength, steps=steps, cfg=cfg, detail=override(default=None))
    parser.add_argument("--model", default="tinyworld", metavar="tinyworld|FOLDER", help=MODEL)
    parser.add_argument("--expert", type=Path, metavar="LORA", help=EXPERT)
    parser.add_argument("--generator", metavar="FILE|STYLE|off", help=GENERATOR)
    parser.add_argument("--harmonize", action="store_true", help="then fit what was restyled to the light around it")
    parser.add_argument("--strict", action="store_true", help="exit with 3, and write nothing, if nothing was changed")
    _add_local_clip(parser)
    _add_sms(parser)
    add_device(parser)


def _add_sms(parser: Parser) -> None:
    """What belongs to the method "sms": every setting of its node that not all methods have."""
    group = parser.add_argument_group(
        "options of --method sms", "Ctrl-C ends the iterations and writes the picture so far."
    )
    settings = sms_settings()
    for name, changed in SMS_HELP.items():
        settings[name] = replace(settings[name], **changed)
    usual = {name: "the preset's" for name, one in settings.items() if one.default is None}
    usual["preview_every"] = CLIP_UNSET["preview_every"]
    for name, value in TINY_USUAL.items():
        usual[name] = f"{usual.get(name, settings[name].default)}; {value} in the tiny world"
    add_method_options(group, "sms", settings, usual)


def _add_local_clip(parser: Parser) -> None:
    """What belongs to the method "clip"; None where it is not given, since the other method has none of it."""
    parser.add_argument(
        "--method", choices=["expert", "clip", "sms", "edit"], default="expert", help=f"{METHOD} ({DEFAULT})"
    )
    parser.add_argument("--composite", action="store_true", help=COMPOSITE)
    group = parser.add_argument_group("options of --method clip")
    group.add_argument("--clip", type=Path, metavar="FOLDER", help=CLIP)
    group.add_argument("--start-image", type=Path, metavar="FILE", help=START_IMAGE)
    add_unset_options(group, LocalClipSettings, *CLIP_OPTIONS, usual=CLIP_UNSET, **CLIP_HELP)


def add_find(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "find", "Find things in your own picture: a mask and a score for every phrase.")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("phrases", nargs="+", metavar="PHRASE", help='for example "red ball" "the leftmost star"')
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sam", metavar="FILE|tinyworld", help=SAM)
    parser.add_argument("--detector", type=Path, metavar="FOLDER", help=DETECTOR)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--model", default="tinyworld", metavar="tinyworld|FOLDER", help=MODEL)
    parser.add_argument("--strict", action="store_true", help="exit with 3 if nothing was found")
    add_device(parser)


def _add_region(parser: Parser) -> None:
    region = parser.add_mutually_exclusive_group()
    region.add_argument("--mask", type=Path, metavar="FILE", help="image: white is restyled, black stays")
    region.add_argument("--box", type=box, metavar="x0,y0,x1,y1", help="a rectangle in pixels, from the top left")
    region.add_argument("--whole", action="store_true", help=WHOLE)


def add_run(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Run a ComfyUI workflow without the browser and collect its files. A cancelled training stays in ComfyUI's "
    parser = add_command(commands, "run", text + "output folder, under regionstyle, until it is resumed.")
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="saved from ComfyUI, in either JSON form")
    parser.add_argument(
        "--input", type=assignment, action="append", default=[], metavar="NAME=FILE",
        help="give FILE to the load node NAME (its id, its title, or the file name it holds now)",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=assignment, action="append", default=[], metavar="NODE.INPUT=VALUE",
        help="change one value; NODE is an id or a title",
    )  # fmt: skip
    parser.add_argument("--server", metavar="URL", help="a running ComfyUI (default: start the installed one)")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-out"), metavar="DIR", help=DEFAULT)
    parser.add_argument("--partial", action="store_true", help="leave out branches that ComfyUI refuses, run the rest")
    parser.add_argument("--strict", action="store_true", help="exit with 3 where the workflow makes no file")


def add_models(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "models", "List public weights: names, sizes, licences, and where they go.")
    parser.add_argument("--folder", type=Path, metavar="DIR", help=MODELS_FOLDER)


def add_download(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Download public weights to where the loaders look; asks first, goes on where it was cut, checks hashes."
    parser = add_command(commands, "download", text)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="as 'regionstyle models' lists them; photo, local-clip: sets"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help=MODELS_FOLDER)
    parser.add_argument("--dry-run", action="store_true", help="say what would be downloaded, and download nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Train a style expert from pictures, a generator from an expert, R2R's stages, or the bundled networks."
    parser = commands.add_parser("train", help=text, description=text, allow_abbrev=False)
    names = "style|expert|gate|sms-generator|harmonizer|r2r-vae|r2r-unet|r2r-controller|tinyworld"
    networks = parser.add_subparsers(dest="network", required=True, metavar=names)
    _add_train_style(networks)
    add_train_expert(networks)
    _add_train_gate(networks)
    _add_train_generator(networks)
    add_train_harmonizer(networks)
    add_train_r2r(networks)
    _add_train_tinyworld(networks)


def _add_train_tinyworld(networks: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(networks, "tinyworld", "Train the bundled networks; resumes where it stopped.")
    parser.add_argument("stage", nargs="?", metavar="STAGE", help="one stage only (default: all that are not finished)")
    parser.add_argument("--time-budget", type=minutes, required=True, metavar="MINUTES")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where checkpoints are kept")
    parser.add_argument("--from-nothing", action="store_true", help="start from random, not from shipped weights")
    add_device(parser)


def _add_train_style(networks: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        networks, "style", "Train a style expert (LoRA) from about ten pictures; Ctrl-C keeps the state."
    )
    parser.set_defaults(command="train style")
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="the pictures; FILE.txt beside one is its caption")
    add("-o", "--output", type=Path, required=True, metavar="OUT.safetensors")
    add("--style", metavar="WORDS", help="the style's words, for prompts (default: the name)")
    add("--name", help="what the expert is called (default: the output's name)")
    add("--model", default="tinyworld", metavar="tinyworld|FOLDER", help="a diffusers folder, SD1.5 or SDXL class")
    _add_style_settings(parser)
    add("--checkpointing", action="store_true", help="compute activations twice, to save memory")
    add("--layout", choices=["kohya", "diffusers"], help="of the file (default: what ComfyUI reads)")
    add("--resume", action="store_true", help="go on where a training of the same output stopped")
    add_device(parser)


def _add_style_settings(parser: Parser) -> None:
    rate = override(default=None, help=f"Learning rate (default: {TrainSettings.rate:g}; 1e-3 for the tiny world)")
    side = override(default=None, low=8, help="Side of the training pictures (default: the model's)")
    flip = override(help="Do not use mirrored pictures, for styles with a left and a right")
    first, last = ("steps", "rank", "rate"), ("batch", "accumulate", "layers", "preview_every", "seed")
    add_setting_options(parser, TrainSettings, *first, options={"rate": "--lr"}, rate=rate)
    add_setting_options(parser, CropSettings, "resolution", "crop", "flip", resolution=side, flip=flip)
    add_setting_options(parser, TrainSettings, *last)


def _add_train_gate(networks: argparse._SubParsersAction[Parser]) -> None:
    text = "Teach a gate which expert a prompt is for; seconds on a CPU."
    parser = add_command(networks, "gate", text)
    parser.set_defaults(command="train gate")
    add = parser.add_argument
    add("--prompts", type=Path, metavar="FILE", help="lines 'expert: prompt' (default: the tiny world's own)")
    add("-o", "--output", type=Path, required=True, metavar="OUT.safetensors")
    add("--model", default="tinyworld", metavar="tinyworld|FOLDER", help="a diffusers folder: its text encoders")
    add_setting_options(parser, GateSettings, "steps", "rate", "top_k", "balance", "seed", options={"rate": "--lr"})
    add_device(parser)


def _add_train_generator(networks: argparse._SubParsersAction[Parser]) -> None:
    text = "Teach a network to paint an expert's style in one pass (SMS distillation); Ctrl-C keeps the state."
    parser = add_command(networks, "sms-generator", text)
    parser.set_defaults(command="train sms-generator")
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", help="any pictures, subfolders too (default: the tiny world's)")
    add("--style", required=True, metavar="WORDS", help="the style, as its expert was trained on")
    add("--expert", type=Path, metavar="LORA.safetensors", help="the style's LoRA, for your own model")
    add("-o", "--output", type=Path, required=True, metavar="OUT.safetensors")
    add("--model", default="tinyworld", metavar="tinyworld|FOLDER", help="a diffusers folder, SD1.5 class")
    add("--validation", type=Path, metavar="DIR", help="pictures to look at (default: the first of the training)")
    add("--strict", action="store_true", help="stop at a picture that cannot be read, instead of leaving it out")
    add("--caption", default="", metavar="WORDS", help="of pictures without a .txt beside them (default: none)")
    _add_generator_settings(parser)
    add("--resume", action="store_true", help="go on where a training of the same output stopped")
    add("--accelerate", action="store_true", help="this is one of several processes of 'accelerate launch'")
    add_device(parser)


def _add_generator_settings(parser: Parser) -> None:
    size = override(default=None, low=1, help="Side of the crops (default: the model's)")
    add_setting_options(parser, DistillSettings, "architecture", "warm_up", "copies", size=size)
    add_setting_options(parser, StyleStrength, "strength")
    usual = ", ".join(f"{rate:g} for {name}" for name, rate in GENERATOR_RATES.items())
    flags = {"rate": "--lr", "fake_rate": "--fake-lr", "balance": "--content"}
    add_setting_options(
        parser,
        SmsSettings,
        options=flags,
        iterations=override(default=DistillSettings.sms.iterations, help="How many after the warm-up; a picture each."),
        rate=override(default=None, help=f"Learning rate (default: {usual})"),
        fake_rate=override(help="Learning rate of the fake predictor, which follows the results."),
        guidance=override(default=REFERENCE.guidance),
        balance=override(default=REFERENCE.balance),
        relevance=override(help=ALIKE),
        preset=override(),
        preview_every=override(default=100, help="Iterations between two pictures of the validation."),
        seed=override(help="Seed of weights, pictures, timesteps and noise."),
    )


def add_apply(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Restyle pictures, folders of pictures or frames with a trained generator, at their full size."
    parser = add_command(commands, "apply", text)
    add = parser.add_argument
    add("images", type=Path, nargs="+", metavar="IMAGE", help="pictures, or folders of them (subfolders too)")
    add("--generator", required=True, metavar="FILE|STYLE", help="a generator's file, or the style of a bundled one")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="a picture for one picture, else a folder")
    add("--mask", type=Path, metavar="FILE", help="image of their size: white is restyled, black stays")
    add_setting_options(parser, ApplySettings, feather=override(default=0), tile=override(low=1))
    add("--strict", action="store_true", help="exit with 3 if no picture was changed")
    add_device(parser)


def add_evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "evaluate", "Measure the bundled networks on scenes they never saw.")
    kinds = "all networks; masks per phrase and kind; or all styles on whole photographs at full size"
    parser.add_argument("what", choices=["tinyworld", "masks", "photos"], help=kinds)
    parser.add_argument("--scenes", type=positive, metavar="N", help="default: 100 for tinyworld, 500 for masks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file too")
    side = "for photos: the longer side in pixels; may be repeated (default: 512 and 1024)"
    parser.add_argument("--side", type=positive, action="append", default=[], metavar="N", help=side)
    style = "for photos: only this style; may be repeated"
    parser.add_argument("--style", action="append", default=[], help=style)
    parser.add_argument("--out", type=Path, metavar="DIR", help="for photos: write the results here")
    add_device(parser)


def add_report(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "report", "Repeat the papers' findings at small scale on the tiny world.")
    parser.add_argument("--quick", action="store_true", help="fewer scenes, the same repetitions")
    parser.add_argument("--row", action="append", default=[], metavar="NAME", help="only this row (default: all)")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--repetitions", type=positive, default=3, metavar="N", help=f"3 or more ({DEFAULT})")
    parser.add_argument("--no-comfy", action="store_true", help="leave out what needs an installed ComfyUI")
    trained = "for each variant that the row 'editing' trains; kept in --out, resumed (default: none is trained)"
    parser.add_argument("--train-minutes", type=minutes, metavar="MINUTES", help=trained)
    parser.add_argument("--out", type=Path, default=Path("regionstyle-report"), metavar="DIR", help=DEFAULT)
    add_device(parser)


def add_benchmark(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "benchmark", "The papers' protocols on their data sets, with your weights and data.")
    parser.add_argument("dataset", choices=DATASETS, metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the data set was unpacked")
    method = parser.add_mutually_exclusive_group(required=True)
    method.add_argument("--model", metavar="unchanged|tinyworld|FOLDER", help="make the results with this model")
    method.add_argument("--results", type=Path, metavar="DIR", help="score finished pictures, named like the samples")
    parser.add_argument("--expert", type=Path, metavar="LORA", help=EXPERT)
    parser.add_argument("--style", action="append", default=[], help="instead of the paper's styles; may be repeated")
    parser.add_argument("--style-images", type=Path, metavar="DIR", help="pictures of the style, for FID and ArtFID")
    parser.add_argument("--networks", type=Path, metavar="DIR", help="weights of LPIPS, FID, CFSD (default: stand-ins)")
    parser.add_argument("--clip", type=Path, metavar="DIR", help="a CLIP folder (default: the stand-in)")
    parser.add_argument("--vlm", type=Path, metavar="DIR", help="a LLaVA or Qwen-VL folder, for the questions Q1 to Q4")
    parser.add_argument("--pickscore", type=Path, metavar="DIR", help="PickScore's folder, for whole-picture data sets")
    parser.add_argument("--hps", type=Path, metavar="DIR", help="HPS v2's folder, likewise")
    _add_score_options(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N samples")
    add_setting_options(parser, RestyleSettings, "seed")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-benchmark"), metavar="DIR", help=DEFAULT)
    add_device(parser)


def _add_score_options(parser: Parser) -> None:
    """What the papers leave open, or vary, about their scores; None where it is not given, since a data set has one of
    the two scores only."""
    group = parser.add_argument_group("options of the regional score, which its paper leaves open")
    add_unset_options(group, RegionalStyleSettings, "margin", "sentence", "background", "pixel_range")
    group.add_argument("--hard-mask", action="store_true", help="cut soft masks at 0.5 first")
    group = parser.add_argument_group("options of the harmonisation score")
    group.add_argument("--full-resolution", action="store_true", help="the truth's own size (default: 256 x 256)")
    group.add_argument("--own-background", action="store_true", help="do not put the truth's background in first")
