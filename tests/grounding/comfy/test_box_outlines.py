"""Segment Boxes without SAM in a real server: GrabCut where OpenCV is, what it says where it is not or cannot cut."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfy_server import ComfyServer

pytestmark = pytest.mark.slow
SIDE, BOX = 200, "40, 20, 180, 160"


def picture_and_truth() -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a noisy green ground, 8 bits, and where it is."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (y - 90) ** 2 + (x - 110) ** 2 < 50**2
    colours = np.where(inside[..., None], [0.8, 0.2, 0.2], [0.2, 0.6, 0.3])
    noise = np.random.default_rng(0).normal(0, 0.05, colours.shape)
    return ((colours + noise).clip(0, 1) * 255).astype(np.uint8), inside


@pytest.fixture(scope="module")
def opencv_alone(tmp_path_factory) -> Path:
    """A folder with this environment's OpenCV and nothing else, for another Python of the same version."""
    spec = find_spec("cv2")
    if spec is None:
        pytest.skip("OpenCV is not installed")
    folder, here = tmp_path_factory.mktemp("opencv"), Path(spec.submodule_search_locations[0])
    for part in (here, *here.parent.glob("opencv_python*.libs")):
        (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture(scope="module", params=["comfy", "comfy_old"])
def server_with_opencv(request, opencv_alone, tmp_path_factory):
    comfy, python = (request.getfixturevalue(f"{request.param}_{what}") for what in ("path", "python"))
    server = ComfyServer(comfy, python, tmp_path_factory.mktemp("comfy-opencv"), packages=opencv_alone)
    yield server
    server.stop()


def run(server, boxes: str = BOX, outline: str = "grabcut") -> dict:
    Image.fromarray(picture_and_truth()[0]).save(server.input_dir / "disc.png")
    nodes = {
        "1": ("LoadImage", {"image": "disc.png"}),
        "2": ("RegionStyleSegmentBoxes", {"boxes": boxes, "points_inside": "", "points_outside": "", "phrase": "disc",
                                          "masks": "best of three", "outline": outline, "image": ["1", 0]}),
        "3": ("MaskToImage", {"mask": ["2", 1]}), "4": ("PreviewImage", {"images": ["3", 0]}),
    }  # fmt: skip
    prompt = {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}
    return server.wait(server.post(prompt))


def mask_of(server, history: dict) -> np.ndarray:
    return np.asarray(Image.open(server.images(history)[0]).convert("L")) / 255


def said(history: dict) -> str:
    return json.dumps(history["outputs"]["2"])


def test_grabcut_in_a_server_that_has_opencv(server_with_opencv):
    server = server_with_opencv
    history = run(server)
    assert history["status"]["status_str"] == "success", history["status"]
    mask, truth = mask_of(server, history), picture_and_truth()[1]
    assert ((mask > 0.5) & truth).sum() / ((mask > 0.5) | truth).sum() > 0.95
    assert ((mask > 0.05) & (mask < 0.95)).any(), "a soft edge"
    assert "1 regions, outlined by GrabCut" in said(history)


def test_a_box_it_can_tell_nothing_of_stays_a_box_and_says_so(server_with_opencv):
    server = server_with_opencv
    history = run(server, boxes=f"0, 0, {SIDE}, {SIDE}")
    assert (mask_of(server, history) == 1).all()
    assert "outlined by box" in said(history)
    assert "GrabCut found nothing, or everything, in it" in said(history)


def test_without_opencv_the_error_says_what_to_install_and_a_box_works(comfy_server, comfy_python):
    import subprocess

    if subprocess.run([str(comfy_python), "-c", "import cv2"], capture_output=True).returncode == 0:
        pytest.skip("ComfyUI's environment has OpenCV")
    history = run(comfy_server)
    assert history["status"]["status_str"] == "error"
    (error,) = [told for kind, told in history["status"]["messages"] if kind == "execution_error"]
    assert "pip install opencv-python-headless" in error["exception_message"]
    assert error["node_type"] == "RegionStyleSegmentBoxes"
    boxed = run(comfy_server, outline="box")
    mask = mask_of(comfy_server, boxed)
    assert mask.sum() == 140 * 140
    assert "outlined by box" in said(boxed)
