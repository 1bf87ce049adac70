"""The pictures that the workflows load, put where ComfyUI's Load Image lists them: templates run without an upload."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "workflows" / "regionstyle_scene.png"
PAINTED = EXAMPLE.with_name("regionstyle_painted.png")  # the scene with a mask, as ComfyUI's mask editor saves one
PASTE = EXAMPLE.with_name("regionstyle_paste.png")  # a composite; what is transparent is its foreground
PHOTO = EXAMPLE.with_name("regionstyle_photo.jpg")  # "Chelsea the cat" by Stefan van der Walt, CC0, out of scikit-image
PICTURES = (EXAMPLE, PAINTED, PASTE, PHOTO)


def put_example(folder: Path, picture: Path = EXAMPLE) -> Path | None:
    """Copy a picture into ComfyUI's input folder, unless a file of its name is there already, which then stays.

    Returns where it is. None where the folder cannot be written to: the log says so, and the rest of the pack works.
    Another ComfyUI that starts at the same moment sees the whole file or none.
    """
    place = folder / picture.name
    if place.exists():
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=f".{picture.stem}-", suffix=picture.suffix)
        os.close(handle)
        try:
            shutil.copyfile(picture, unfinished)
            os.chmod(unfinished, 0o644)
            os.replace(unfinished, place)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    except OSError as error:
        message = "The example picture %s could not be put into %s (%s): upload it to Load Image to run the templates."
        logging.getLogger("regionstyle").warning(message, picture, folder, error.strerror or error)
        return None
    return place
