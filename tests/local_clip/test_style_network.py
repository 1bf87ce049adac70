import torch

from regionstyle.nodes.local_clip.style_network import new_style_network


def test_it_has_the_published_number_of_parameters_and_layer_names():
    network = new_style_network(0)
    assert sum(p.numel() for p in network.parameters()) == 615_267
    names = {name.split(".")[0] for name in network.state_dict()}
    assert names == {
        "conv_init", "init", "down1", "down2", "down3", "encoding", "up3", "up2", "up1", "out", "conv_fin",
    }  # fmt: skip
    inner = {name.removeprefix("down2.") for name in network.state_dict() if name.startswith("down2.")}
    layers = ("conv.0", "conv.3", "skip", "downsample")
    assert inner == {f"{layer}.{tensor}" for layer in layers for tensor in ("weight", "bias")}
    assert network.down1.downsample.weight.shape == (16, 16, 4, 4)
    assert network.encoding.conv[0].weight.shape == (128, 64, 3, 3)
    assert network.out.skip.weight.shape == (16, 32, 1, 1)


def test_a_picture_of_any_multiple_of_eight_comes_out_at_its_size():
    with torch.no_grad():
        painted = new_style_network(1)(torch.rand(2, 3, 24, 40))
    assert painted.shape == (2, 3, 24, 40)
    assert 0 < painted.min() < painted.max() < 1


def test_the_seed_alone_decides_the_weights():
    first = new_style_network(7).conv_fin.weight
    torch.rand(3)
    before = torch.get_rng_state()
    assert torch.equal(first, new_style_network(7).conv_fin.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, new_style_network(8).conv_fin.weight)
