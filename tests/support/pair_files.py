"""Pairs of the tiny world as files in the manifest's format."""

import json

import numpy as np
from PIL import Image

from regionstyle.nodes.tinyworld.world import restyle_object, scene


def write_pairs(folder, count=3, style="mosaic", box=slice(32, 96)):
    """Exact local pairs of scenes with one object; returns the manifest's path."""
    records = []
    for part in ("styled", "before", "masks"):
        (folder / part).mkdir(parents=True)
    for seed in range(count):
        one = scene(seed, count=1)
        thing, name = one.objects[0], f"{seed:05d}"
        words = f"{thing.color} {thing.shape}"
        for part, image in (("styled", restyle_object(one, 0, style).image), ("before", one.image)):
            Image.fromarray((image[box, box] * 255).astype("uint8")).save(folder / part / f"{name}.png")
        mask = (thing.mask[box, box] * 255).astype("uint8")
        # an RGB mask: the published code cannot read it
        Image.fromarray(np.stack([mask] * 3, -1)).save(folder / "masks" / f"mask_{name}_{words}.png")
        records.append({
            "prompt": f"make the {words} {style} style", "image_path": f"styled/{name}.png",
            "original_path": f"before/{name}.png", "mask_dir": "masks", "image_name": name, "objects": {words: style},
        })  # fmt: skip
    (folder / "pairs.json").write_text(json.dumps(records))
    return folder / "pairs.json"
