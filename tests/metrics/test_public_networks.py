"""Published networks: what is read, what is missing, equality with their libraries (random weights)."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.metrics import public_networks as public


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("load", "file"),
    [
        (lambda folder: public.load_cfsd_features(folder), "vgg19-dcbb9e9d.pth"),
        (lambda folder: public.weights_file(folder, public.INCEPTION_FILE, public.INCEPTION_URL), "pt_inception"),
        (lambda folder: public.ClipTowers(folder), "no config.json"),
    ],
)
def test_a_missing_file_is_named(load, file, tmp_path):
    with pytest.raises(RegionStyleError) as caught:
        load(tmp_path)
    assert file in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_library_is_named():
    with pytest.raises(RegionStyleError, match=r"regionstyle\[metrics\]"):
        public.require("a_library_nobody_has", "some-package")


def test_a_file_that_is_no_tensors_is_refused(tmp_path):
    place = tmp_path / "alexnet-owt-7be5be79.pth"
    place.write_bytes(b"hello")
    with pytest.raises(RegionStyleError, match="a file of tensors"):
        public.read_tensors(place)
    torch.save({"a": {"b": torch.zeros(1)}}, place)
    with pytest.raises(RegionStyleError, match="named tensors"):
        public.read_tensors(place)


def test_lpips_knows_its_networks(tmp_path):
    with pytest.raises(RegionStyleError, match="alex, vgg"):
        public.load_lpips(tmp_path, "resnet")


def test_lpips_is_the_librarys(tmp_path):
    """Random trunk weights in torchvision's file: the distance equals that of the library's own network."""
    library = pytest.importorskip("lpips", reason="the package lpips is not installed")
    from torchvision.models import alexnet

    torch.manual_seed(0)
    trunk = alexnet(weights=None)
    torch.save(trunk.state_dict(), tmp_path / "alexnet-owt-7be5be79.pth")
    ours = public.load_lpips(tmp_path, "alex")
    theirs = library.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for name, value in trunk.features.state_dict().items():
        key = next(k for k in theirs.state_dict() if k.startswith("net.slice") and k.split(".", 2)[2] == name)
        theirs.state_dict()[key].copy_(value)
    a, b = rand(2, 3, 64, 80), rand(2, 3, 64, 80, seed=1)
    with torch.no_grad():
        truth = theirs(a, b, normalize=True).flatten()
    assert ours(a, b).numpy() == pytest.approx(truth.numpy(), rel=1e-4)
    theirs.spatial = True
    with torch.no_grad():
        assert torch.allclose(ours.map(a, b), theirs(a, b, normalize=True)[:, 0], rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_fid_features_are_the_librarys(tmp_path, monkeypatch):
    fid = pytest.importorskip("pytorch_fid.inception", reason="the package pytorch-fid is not installed")
    torch.manual_seed(0)
    network = public._inception()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    state = network.state_dict()
    torch.save(state, tmp_path / public.INCEPTION_FILE)
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda *a, **k: state)
    images = rand(2, 3, 70, 90)
    with torch.no_grad():
        truth = fid.InceptionV3([3]).eval()(images)[0].flatten(1)
    found = public.load_fid_features(tmp_path)(images)
    assert found.shape == (2, 2048)
    assert torch.allclose(found, truth, rtol=1e-3, atol=1e-5)


def test_cfsd_features_are_the_rectified_conv3_1(tmp_path):
    from torchvision.models import vgg19

    network = vgg19(weights=None)
    torch.save(network.state_dict(), tmp_path / "vgg19-dcbb9e9d.pth")
    found = public.load_cfsd_features(tmp_path)(rand(1, 3, 32, 48))
    assert found.shape == (1, 256, 8, 12)
    assert found.min() >= 0


def save_clip(folder):
    """A CLIP of few channels as `save_pretrained` writes it."""
    import json

    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    folder.mkdir()
    letters = sorted("abcdefghijklmnopqrstuvwxyz")
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=20)
    tokenizer.save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=20, bos_token_id=len(words) - 2,
                          eos_token_id=len(words) - 1, **small)  # fmt: skip
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)).eval()
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model, tokenizer


def test_clip_is_transformers_own(tmp_path):
    from PIL import Image
    from transformers import CLIPImageProcessor

    folder = tmp_path / "clip-small"
    model, tokenizer = save_clip(folder)
    towers = public.ClipTowers(folder)
    image = (rand(1, 3, 50, 80) * 255).round() / 255
    picture = Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy())
    pixels = CLIPImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    tokens = tokenizer(["a red cat"], return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokens)
    assert towers.backbone == "clip-small"
    assert towers.scale == pytest.approx(float(model.logit_scale.exp()))
    assert torch.allclose(towers.embed_texts(["a red cat"]), out.text_embeds, atol=1e-4)
    assert torch.allclose(towers.embed_images(image), out.image_embeds, atol=2e-2)
    assert float((towers.embed_images(image) * out.image_embeds).sum()) > 0.999


def test_squashing_sees_the_whole_picture(tmp_path):
    save_clip(tmp_path / "clip")
    wide = torch.zeros(1, 3, 32, 96)
    wide[..., 80:] = 1  # outside the centre cut
    crop, squash = public.ClipTowers(tmp_path / "clip"), public.ClipTowers(tmp_path / "clip", squash=True)
    blank = torch.zeros(1, 3, 32, 96)
    assert torch.equal(crop.embed_images(wide), crop.embed_images(blank))
    assert not torch.allclose(squash.embed_images(wide), squash.embed_images(blank))
