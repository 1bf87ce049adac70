"""Segment Anything's architecture is read off the weights: public sizes, any other size, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.sam_network import SamConfig, config_of, load_sam, new_sam, sam_from_state

SMALL = SamConfig(
    image_size=64, patch=8, width=32, depth=3, heads=2, mlp_ratio=2.0, window=3, global_blocks=(1,), prompt_width=32,
    mask_channels=8, decoder_mlp=48, iou_width=24, iou_depth=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return new_sam(SMALL)


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "last"),
    [("vit_b", 768, 12, 12, 11), ("vit_l", 1024, 24, 16, 23), ("vit_h", 1280, 32, 16, 31)],
)
def test_the_public_networks_are_recognised(name, width, depth, heads, last):
    with torch.device("meta"):
        state = sam_model_registry[name]().state_dict()
    config = config_of(state)
    assert config.name == name
    assert (config.width, config.depth, config.heads, config.window, config.image_size) == (
        width,
        depth,
        heads,
        14,
        1024,
    )
    assert config.global_blocks[-1] == last
    assert len(config.global_blocks) == 4
    with torch.device("meta"):
        ours = new_sam(config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in state.items()}


def test_any_other_size_is_recognised(small):
    assert config_of(small.state_dict()) == SMALL


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_gives_the_network_it_was_saved_from(small, tmp_path, ending):
    path = tmp_path / f"sam.{ending}"
    torch.save(small.state_dict(), path) if ending == "pth" else save_file(small.state_dict(), path)
    loaded = load_sam(path)
    picture = torch.rand(3, 64, 48) * 255
    assert torch.equal(
        small.image_encoder(small.preprocess(picture)[None]), loaded.image_encoder(loaded.preprocess(picture)[None])
    )
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_files_run_in_float32(small):
    loaded = sam_from_state({key: value.half() for key, value in small.state_dict().items()})
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_other_networks_are_refused_by_name(small, tmp_path):
    with pytest.raises(RegionStyleError, match=r"sam_vit_b_01ec64\.pth.*MobileSAM"):
        config_of({"image_encoder.trunk.pos_embed": torch.zeros(1)}, "sam2.pt")
    hq = {**small.state_dict(), "mask_decoder.hf_token.weight": torch.zeros(1, 32)}
    with pytest.raises(RegionStyleError, match="SAM-HQ is another network"):
        sam_from_state(hq)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(RegionStyleError, match=r"broken\.pth cannot be read.*Download"):
        load_sam(broken)


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    path = tmp_path / "sam.pth"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(RegionStyleError, match="cannot be read"):
        load_sam(path)
