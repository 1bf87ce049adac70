"""Loading a CLIP folder and VGG-19's file: small and real configurations with random weights."""

import pytest
import torch
from clip_folder import write_clip_folder

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.public_networks import VGG19_FILE
from regionstyle.nodes.local_clip.public_networks import ClipFolder, PatchProduct, VggContent, load_public

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    path = tmp_path_factory.mktemp("models") / "small-clip"
    return write_clip_folder(path, vision, {**SMALL, "max_position_embeddings": 40})


def test_a_clip_folder_gives_embeddings_that_can_be_differentiated(folder):
    towers = ClipFolder.read(folder)
    assert (towers.name, towers.size) == ("small-clip", 32)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    embeddings = towers.embed_images(images)
    assert embeddings.shape == (2, 12)
    model = towers.modules[0]
    shift, scale = (torch.tensor(v)[:, None, None] for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    pooled = model.vision_model(pixel_values=(images - shift) / scale).pooler_output
    torch.testing.assert_close(embeddings, model.visual_projection(pooled))
    gradient = torch.autograd.grad(embeddings.sum(), images)[0]
    assert gradient.abs().max() > 0
    assert not any(p.requires_grad for p in model.parameters())


def test_weights_in_half_precision_are_read_into_single(tmp_path):
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    kept = write_clip_folder(tmp_path / "half", vision, SMALL, dtype=torch.float16)
    towers = ClipFolder.read(kept)
    assert {p.dtype for p in towers.modules[0].parameters()} == {torch.float32}
    assert towers.embed_images(torch.rand(1, 3, 32, 32)).dtype == torch.float32


def test_patches_as_one_product_are_the_convolution():
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 7, 4, stride=4).double()
    images = torch.rand(2, 3, 14, 20, dtype=torch.float64, requires_grad=True)
    outputs = [layer(images) for layer in (convolution, PatchProduct(convolution))]
    torch.testing.assert_close(*outputs)
    weight = torch.rand_like(outputs[0])
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), images)[0] for y in outputs))


def test_texts_have_embeddings_and_a_limit(folder):
    towers = ClipFolder.read(folder)
    assert towers.embed_texts(["neon", "a photo"]).shape == (2, 12)
    with pytest.raises(RegionStyleError, match="style: got 62 tokens in .*expected at most 40"):
        towers.embed_texts(["n" * 60])


def test_vgg_reads_the_two_layers_before_and_after_rectification():
    from torchvision.models import vgg19

    torch.manual_seed(0)
    features = vgg19(weights=None).features.eval()
    content, images = VggContent(features, size=32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        plain, rectified = (content.maps(images, rectified=which) for which in (False, True))
        x, found = (
            (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
            / torch.tensor([0.229, 0.224, 0.225])[:, None, None],
            {},
        )
        for index, layer in enumerate(features[:32]):
            x = layer(x)
            found[index] = x.clone()  # before the next one overwrites it
    for maps, layers in ((plain, (21, 30)), (rectified, (22, 31))):
        for got, layer in zip(maps, layers, strict=True):
            torch.testing.assert_close(got, found[layer], atol=1e-5, rtol=1e-5)
    assert plain[0].min() < 0 == rectified[0].min()


@pytest.mark.slow
def test_both_are_read_from_the_users_folders(folder, tmp_path):
    from torchvision.models import vgg19

    torch.save(vgg19(weights=None).state_dict(), tmp_path / VGG19_FILE)
    networks = load_public(folder, tmp_path)
    assert networks.name == "small-clip, VGG-19"
    assert networks.native == networks.content.size == 512


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(RegionStyleError, match=rf"no {VGG19_FILE} in .*download.pytorch.org"):
        load_public(folder, tmp_path)
    (tmp_path / VGG19_FILE).write_bytes(b"no tensors")
    with pytest.raises(RegionStyleError, match="a file of tensors"):
        VggContent.read(tmp_path)
