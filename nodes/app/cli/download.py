"""`regionstyle models` and `regionstyle download`."""

from __future__ import annotations

import argparse
import sys

from ...engine.errors import RegionStyleError
from ..downloads.catalogue import Catalogue, PublicModel, load_catalogue
from ..downloads.download import Plan, gigabytes, plan, present, run
from ..downloads.places import Place, models_place
from ..files import check_folder
from .arguments import DONE, NOTHING_TO_DO
from .console import say


def run_models(args: argparse.Namespace) -> int:
    """Print the catalogue: names, what they are, size where known, licence, where they go, whether they are there."""
    catalogue, place = load_catalogue(), models_place(args.folder)
    for name, (title, *_) in catalogue.sets.items():
        inside = ", ".join(model.name for model in catalogue.choose([name], place.comfyui))
        sys.stdout.write(f"{name}\n    {title}: {inside}\n")
    for model in catalogue.models.values():
        sys.stdout.write(_entry(model, place))
    kind = "ComfyUI's models folder" if place.comfyui else "models folder"
    sys.stdout.write(f"{kind}: {place.root}\n")
    return DONE


def _entry(model: PublicModel, place: Place) -> str:
    size = model.known_size()
    facts = [
        gigabytes(size) if size else "size asked when downloading",
        f"licence: {model.licence}",
        *(["needs a token"] if model.gated else []),
        *(["is there"] if present(model, place.root) else []),
    ]
    sources = dict.fromkeys(f"{part.source} -> {part.folder}" for part in model.parts)
    return f"{model.name}\n    {model.title}\n    {'; '.join(facts)}\n    {', '.join(sources)}\n"


def run_download(args: argparse.Namespace) -> int:
    """Download models by their names, after asking; 3 when the answer was no."""
    if args.folder is not None:
        check_folder("--folder", args.folder)
    catalogue, place = load_catalogue(), models_place(args.folder)
    models = _chosen(catalogue, args.names, place)
    made = plan(models, place.root)
    _tell(models, made)
    if made.wanted and not args.dry_run:
        if not args.yes and not _agreed():
            say("nothing was downloaded")
            return NOTHING_TO_DO
        run(made)
    if not args.dry_run:
        _tell_places(models, place)
    return DONE


def _chosen(catalogue: Catalogue, names: list[str], place: Place) -> list[PublicModel]:
    return catalogue.choose(names, place.comfyui)


def _tell(models: list[PublicModel], made: Plan) -> None:
    """What would be downloaded, on stdout: places with sizes, licences, the sum."""
    for path in made.there:
        sys.stdout.write(f"is there: {path}\n")
    for each in made.wanted:
        size = "size unknown" if each.file.size is None else gigabytes(each.file.size)
        sys.stdout.write(f"{each.file.url} ({size}) -> {made.root / each.file.place}\n")
    for model in models:
        sys.stdout.write(f"{model.name}: licence {model.licence}\n")
    more = f" and {made.unknown} of unknown size" if made.unknown else ""
    sys.stdout.write(f"to download: {gigabytes(made.missing)} in {len(made.wanted)} files{more}\n")


def _agreed() -> bool:
    """The answer of whoever sits there. RegionStyleError where nobody does."""
    if not sys.stdin.isatty():
        raise RegionStyleError("download asks before it downloads, and nobody can answer here. Add --yes.")
    sys.stderr.write("Download? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell_places(models: list[PublicModel], place: Place) -> None:
    """Where each model lies now, as the other commands and nodes want it named."""
    for model in models:
        for part in model.parts:
            single = len(part.files) == 1 and "*" not in part.files[0]
            where = place.root / (part.place(part.files[0]) if single else part.folder)
            sys.stdout.write(f"{model.name}: {where}\n")
