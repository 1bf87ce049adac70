import pytest
import torch

from regionstyle.nodes.local_clip.clip_tower import class_token

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize(("layers", "activation"), [(1, "quick_gelu"), (3, "quick_gelu"), (2, "gelu")])
def test_the_class_token_and_its_gradient_are_those_of_the_whole_tower(layers, activation):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(**SMALL, num_hidden_layers=layers, hidden_act=activation)
    tower = CLIPVisionModelWithProjection(config).double().eval().vision_model
    for parameter in tower.parameters():  # torch begins with biases of 0 and scales of 1
        torch.nn.init.normal_(parameter, std=0.3)
    pixels = torch.rand(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    found = class_token(tower, pixels), tower(pixel_values=pixels).pooler_output
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-10)
    weight = torch.randn_like(found[0])
    gradients = [torch.autograd.grad((y * weight).sum(), pixels)[0] for y in found]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)
    assert gradients[0].abs().max() > 1e-3
