"""Random networks of diffusers, small enough to run on any machine."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel


@pytest.fixture(scope="session")
def make_unet():
    """A small UNet2DModel, with other settings where they are given."""

    def make(**settings):
        torch.manual_seed(0)
        own = {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        return UNet2DModel(**{**own, **settings}).eval()

    return make


@pytest.fixture(scope="session")
def unet(make_unet):
    return make_unet()


@pytest.fixture(scope="session")
def stable(tmp_path_factory):
    """The parts of a Stable Diffusion pipeline, tiny and random."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {w: i for i, w in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=len(vocabulary) - 1,
    )
    return {
        "vae": AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8
        ),
        "text_encoder": CLIPTextModel(text).eval(),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        "safety_checker": None,
        "feature_extractor": None,
    }
