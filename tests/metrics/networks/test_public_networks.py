"""Published networks: what is read, what is missing, equality with their libraries (random weights)."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.metrics.networks import public


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


@pytest.mark.parametrize("network", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips_is_the_librarys(network, tmp_path):
    """Random trunk weights in torchvision's file: the distance equals that of the library's own network."""
    library = pytest.importorskip("lpips", reason="the package lpips is not installed")
    from torchvision import models

    torch.manual_seed(0)
    trunk = getattr(models, public.TRUNKS[network].builder)(weights=None)
    torch.save(
        trunk.state_dict(), tmp_path / {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}[network]
    )
    ours = public.load_lpips(tmp_path, network)
    theirs = library.LPIPS(net=network, pnet_rand=True, verbose=False)
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


@pytest.mark.slow
def test_cfsd_features_are_the_rectified_conv3_1(tmp_path):
    """conv3_1 is the fifth convolution: two in each of the first two blocks come before it."""
    from torchvision.models import vgg19

    torch.manual_seed(0)
    network = vgg19(weights=None)
    torch.save(network.state_dict(), tmp_path / "vgg19-dcbb9e9d.pth")
    image = rand(1, 3, 32, 48)
    found = public.load_cfsd_features(tmp_path)(image)
    x = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        fifth = [i for i, layer in enumerate(network.features) if isinstance(layer, torch.nn.Conv2d)][4]
        x = torch.relu(network.features[: fifth + 1](x))
    assert found.shape == (1, 256, 8, 12)
    assert torch.allclose(found, x)


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


def open_clip_state(seed=0):
    """Weights of a small CLIP under open_clip's names, from the architecture: two towers of two blocks, width 32."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    state = {"logit_scale": torch.tensor(2.0), "text_projection": noise(32, 16), "visual.proj": noise(32, 16),
             "token_embedding.weight": noise(60, 32), "positional_embedding": noise(20, 32),
             "visual.class_embedding": noise(32), "visual.conv1.weight": noise(32, 3, 8, 8),
             "visual.positional_embedding": noise(17, 32)}  # fmt: skip
    for name in ("ln_final", "visual.ln_pre", "visual.ln_post"):
        state |= {f"{name}.weight": 1 + noise(32), f"{name}.bias": noise(32)}
    for prefix in ("transformer", "visual.transformer"):
        for i in range(2):
            block = f"{prefix}.resblocks.{i}"
            for name, shape in (("attn.in_proj_", (96, 32)), ("attn.out_proj.", (32, 32)), ("mlp.c_fc.", (128, 32)),
                                ("mlp.c_proj.", (32, 128))):  # fmt: skip
                state |= {f"{block}.{name}weight": noise(*shape), f"{block}.{name}bias": noise(shape[0])}
            for name in ("ln_1", "ln_2"):
                state |= {f"{block}.{name}.weight": 1 + noise(32), f"{block}.{name}.bias": noise(32)}
    return state


def block_by_hand(x, state, place, mask):
    """One block as CLIP defines it, with torch's own attention over the fused weights."""
    F = torch.nn.functional
    y = F.layer_norm(x, (32,), state[f"{place}.ln_1.weight"], state[f"{place}.ln_1.bias"])
    out, _ = F.multi_head_attention_forward(
        y.transpose(0, 1), y.transpose(0, 1), y.transpose(0, 1), 32, 2, state[f"{place}.attn.in_proj_weight"],
        state[f"{place}.attn.in_proj_bias"], None, None, False, 0.0, state[f"{place}.attn.out_proj.weight"],
        state[f"{place}.attn.out_proj.bias"], training=False, attn_mask=mask,
    )  # fmt: skip
    x = x + out.transpose(0, 1)
    y = F.layer_norm(x, (32,), state[f"{place}.ln_2.weight"], state[f"{place}.ln_2.bias"])
    y = F.gelu(F.linear(y, state[f"{place}.mlp.c_fc.weight"], state[f"{place}.mlp.c_fc.bias"]))
    return x + F.linear(y, state[f"{place}.mlp.c_proj.weight"], state[f"{place}.mlp.c_proj.bias"])


def towers_by_hand(state, images, ids):
    """Both embeddings as CLIP defines them."""
    F = torch.nn.functional
    x = F.conv2d(images, state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = F.layer_norm(x, (32,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    for i in range(2):
        x = block_by_hand(x, state, f"visual.transformer.resblocks.{i}", None)
    seen = (
        F.layer_norm(x[:, 0], (32,), state["visual.ln_post.weight"], state["visual.ln_post.bias"])
        @ state["visual.proj"]
    )
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    causal = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
    for i in range(2):
        x = block_by_hand(x, state, f"transformer.resblocks.{i}", causal)
    x = F.layer_norm(x, (32,), state["ln_final.weight"], state["ln_final.bias"])
    read = x[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]
    return F.normalize(seen, dim=-1), F.normalize(read, dim=-1)


def test_open_clip_weights_give_open_clips_embeddings():
    from regionstyle.nodes.metrics.networks.open_clip_weights import clip_of

    state = open_clip_state()
    model = clip_of(state, 2, 2)
    images, ids = rand(2, 3, 32, 32), torch.tensor([[58, 3, 7, 59, 0], [58, 1, 59, 0, 0]])
    with torch.no_grad():
        found = model(pixel_values=images, input_ids=ids)
    seen, read = towers_by_hand(state, images, ids)
    assert torch.allclose(found.image_embeds, seen, atol=1e-5)
    assert torch.allclose(found.text_embeds, read, atol=1e-5)


def test_hps_is_read_as_published(tmp_path):
    state = open_clip_state()
    torch.save({"state_dict": state}, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(RegionStyleError, match=r"vocab\.json"):
        public.ClipTowers(tmp_path)
    assert public.read_tensors(tmp_path / "HPS_v2_compressed.pt").keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "says"), [({"extra": torch.zeros(1)}, "extra"), ({"logit_scale": None}, "logit_scale")]
)
def test_another_networks_weights_are_refused(change, says):
    from regionstyle.nodes.metrics.networks.open_clip_weights import clip_of

    state = {k: v for k, v in (open_clip_state() | change).items() if v is not None}
    with pytest.raises(RegionStyleError, match=says):
        clip_of(state, 2, 2)
