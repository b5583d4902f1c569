"""The one network against independent implementations of every family, and its own promises."""

import copy
from dataclasses import replace

import pytest
import torch
from references import golden, small
from references.families import DDPM, SMALL, difference, diffusers_unet
from references.parameters import Parameters, randomised, shapeless
from safetensors.torch import load_file

from pndm.models import key_maps
from pndm.models.architectures import ARCHITECTURES, Architecture
from pndm.models.unet import UNet, embedding_rates, time_embedding

MILLIONS = {
    "ddpm_cifar10": 35.75,
    "ddim_celeba": 78.70,
    "ddpm_lsun_bedroom": 113.67,
    "ddpm_lsun_church": 113.67,
    "iddpm_cifar10": 52.55,
    "pf_cifar10": 35.22,
    "pf_deep_cifar10": 106.63,
}
"""Published parameter counts."""


class Sinusoids(torch.nn.Module):
    """Our embedding inside another's network, which rounds its float32 angles differently."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return time_embedding(t, self.arch)


def reference(family: str):
    """(upstream's state, upstream's e(x, t) in float64) for a small network of a family."""
    if family in small.REFERENCE:
        state = small.state(family)
        return state, lambda x, t: small.REFERENCE[family](state, x, t)[:, :3]
    oracle = diffusers_unet(DDPM[family]).double()
    oracle.time_proj = Sinusoids(DDPM[family])
    state = {k: randomised(k, tuple(v.shape)) for k, v in oracle.state_dict().items()}
    oracle.load_state_dict(state)
    return state, lambda x, t: oracle(x, t).sample


def ours(family: str, state) -> UNet:
    """Our network with upstream's weights."""
    unet = UNet(SMALL[family]).double().eval()
    unet.load_state_dict(key_maps.rename_keys(state, unet))
    return unet


@pytest.mark.parametrize("family", SMALL)
@torch.no_grad()
def test_every_family_equals_an_independent_implementation(family):
    state, e = reference(family)
    unet, arch = ours(family, state), SMALL[family]
    x, t = small.inputs(arch.image_size)
    expected = e(x, t)
    assert expected.std() > 0.1
    t = t / arch.time_scale
    assert difference(unet(x, t), expected) < 1e-12
    assert difference(unet.float()(x.float(), t), expected) < 1e-5


@torch.no_grad()
def test_iddpm_differs_by_upstream_s_single_precision_softmax_alone():
    state = small.state("iddpm_cifar10")
    x, t = small.inputs(16)
    expected = small.REFERENCE["iddpm_cifar10"](state, x, t, exact=False)[:, :3]
    result = ours("iddpm_cifar10", state)(x, 4 * t)
    assert 1e-12 < difference(result, expected) < 1e-7


@pytest.mark.parametrize("family", small.REFERENCE)
@torch.no_grad()
def test_references_and_network_give_the_golden_outputs(family):
    """tests/references/golden.py says how they were made."""
    kept = load_file(golden.FILE)[family]
    state = small.state(family)
    x, t = small.inputs(16)
    assert difference(small.REFERENCE[family](state, x, t)[:, :3], kept) < 1e-10
    assert difference(ours(family, state)(x, t / SMALL[family].time_scale), kept) < 1e-10


@torch.no_grad()
def test_the_digits_network_is_still_the_one_that_was_trained():
    kept = load_file(golden.FILE)["digits_linear"]
    unet = UNet(ARCHITECTURES["digits_linear"]).double().eval()
    unet.load_state_dict({k: randomised(k, tuple(v.shape)) for k, v in unet.state_dict().items()})
    assert difference(unet(*small.inputs(8, channels=1)), kept) < 1e-12


@pytest.mark.parametrize("learned", [False, True])
@torch.no_grad()
def test_a_patch_is_the_channels_of_one_pixel(learned):
    """Against the network of the half size on the squares as channels, moved by hand."""
    arch = replace(ARCHITECTURES["fashion_linear"], in_channels=3, learned_variance=learned)
    half = replace(arch, image_size=14, in_channels=12, patch=1)
    unet, inner = UNet(arch).double().eval(), UNet(half).double().eval()
    state = {k: randomised(k, tuple(v.shape)) for k, v in unet.state_dict().items()}
    unet.load_state_dict(state)
    inner.load_state_dict(state)
    x, t = small.inputs(28)
    squares = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 2)
    e = inner(squares.flatten(1, 2), t).unflatten(1, (3, 2, 2))
    expected = torch.empty_like(x)
    for i in (0, 1):
        for j in (0, 1):
            expected[:, :, i::2, j::2] = e[:, :, i, j]
    found = unet(x, t)
    assert found.shape == x.shape and expected.std() > 0.1
    assert difference(found, expected) < 1e-12


def test_without_patches_nothing_is_moved():
    """The attention's resolutions count inside, and a patch of one pixel is the image itself."""
    unet = UNet(ARCHITECTURES["fashion_linear"])
    assert [len(level.attn) for level in unet.down] == [0, 1]
    assert unet.conv_in.in_channels == 4 and unet.conv_out.out_channels == 4
    for arch in (a for name, a in ARCHITECTURES.items() if "fashion" not in name):
        assert arch.patch == 1


@pytest.mark.parametrize("family", MILLIONS)
def test_real_networks_have_upstream_s_parameters(family):
    """Keys and shapes of the real size, from upstream's own network without memory for it."""
    with torch.device("meta"):
        unet = UNet(ARCHITECTURES[family])
        if family in small.REAL:
            upstream = Parameters(shapeless)
            small.REAL[family](
                upstream, torch.empty(1, 3, 32, 32, dtype=torch.float64), torch.empty(1)
            )
        else:
            upstream = diffusers_unet(ARCHITECTURES[family]).state_dict()
    state, expected = key_maps.rename_keys(upstream, unet), unet.state_dict()
    assert state.keys() == expected.keys()
    assert all(state[key].shape == expected[key].shape for key in expected)
    count = sum(tensor.numel() for tensor in expected.values())
    assert round(count / 1e6, 2) == MILLIONS[family]
    assert count == sum(tensor.numel() for tensor in upstream.values())


def test_ddpm_names_are_those_of_the_public_files():
    """A sample of keys and shapes from the converted checkpoints of Ho et al."""
    with torch.device("meta"):
        state = UNet(ARCHITECTURES["ddpm_cifar10"]).state_dict()
    shapes = {
        "temb.dense.1.bias": (512,),
        "conv_in.weight": (128, 3, 3, 3),
        "down.0.block.1.conv2.weight": (128, 128, 3, 3),
        "down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "down.1.attn.1.proj_out.bias": (256,),
        "down.2.downsample.conv.weight": (256, 256, 3, 3),
        "mid.attn_1.q.weight": (256, 256, 1, 1),
        "mid.block_2.temb_proj.weight": (256, 512),
        "up.0.block.2.norm1.weight": (256,),
        "up.1.attn.2.norm.weight": (256,),
        "up.3.upsample.conv.bias": (256,),
        "norm_out.bias": (128,),
        "conv_out.weight": (3, 128, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_sinusoids():
    """Against the formulas, in float64: float32 angles are within 1e-4 at t = 999."""
    arch = ARCHITECTURES["ddpm_cifar10"]
    t = torch.tensor([0.0, 0.5, 17.0, 999.0], dtype=torch.float64)
    i = torch.arange(64, dtype=torch.float64)
    angles = t[:, None] * 10000 ** (-i / 63)
    assert (
        time_embedding(t, arch) - torch.cat([angles.sin(), angles.cos()], 1)
    ).abs().max() < 1e-4
    angles = t[:, None] / 4 * 10000 ** (-i / 64)
    embedded = time_embedding(t, ARCHITECTURES["iddpm_cifar10"])
    assert (embedded - torch.cat([angles.cos(), angles.sin()], 1)).abs().max() < 1e-4


def test_angles_are_single_precision_as_trained():
    t = torch.tensor([999.0], dtype=torch.float64)
    assert time_embedding(t, ARCHITECTURES["ddpm_cifar10"]).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_rates_of_the_sinusoids_are_of_the_cpu_in_every_precision(dtype):
    arch = ARCHITECTURES["digits_linear"]
    network = copy.deepcopy(UNet(arch)).to(dtype).float().to(dtype)
    rates = network.temb.rates
    assert torch.equal(rates, embedding_rates(arch)) and rates.dtype == torch.float32
    seen = []
    network.temb.dense[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    t = torch.tensor([999.0, 0.5])
    network(torch.zeros(2, 1, 8, 8, dtype=dtype), t)
    assert torch.equal(seen[0], time_embedding(t, arch).to(dtype))


def test_files_of_weights_do_not_hold_the_rates():
    network = UNet(ARCHITECTURES["digits_linear"])
    assert not any("rates" in key for key in network.state_dict())
    network.load_state_dict(network.state_dict(), strict=True)


def test_the_rates_are_where_the_parameters_are():
    with torch.device("meta"):
        network = UNet(ARCHITECTURES["digits_linear"])
        assert network(torch.empty(2, 1, 8, 8), torch.empty(2)).is_meta
    assert torch.equal(network.temb.rates, embedding_rates(network.arch))  # for load(assign=True)
    assert network.to("meta").temb.rates.is_meta


def test_iddpm_s_time_scale():
    """Trained on 4000 times of which the embedding saw a quarter; released code gives it all."""
    scaled, released = ARCHITECTURES["iddpm_cifar10"], ARCHITECTURES["iddpm_cifar10_released"]
    t = torch.tensor([3999.0, 17.0])
    assert torch.equal(time_embedding(t, scaled), time_embedding(t / 4, released))
    assert replace(scaled, time_scale=1.0) == released


@pytest.mark.parametrize("family", SMALL)
@torch.no_grad()
def test_channels_last_changes_the_layout_alone(family):
    state, _ = reference(family)
    unet = ours(family, state)
    x, t = small.inputs(SMALL[family].image_size)
    expected = unet(x, t)
    unet = unet.to(memory_format=torch.channels_last)
    formats = []
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d) and module.in_channels > 3:
            module.register_forward_pre_hook(
                lambda _, given: formats.append(
                    given[0].is_contiguous(memory_format=torch.channels_last)
                )
            )
    result = unet(x.to(memory_format=torch.channels_last), t)
    assert formats and all(formats)
    assert difference(result, expected) < 1e-12


@pytest.mark.parametrize("family", ["ddpm_cifar10", *small.REFERENCE])
@torch.no_grad()
def test_no_graph_breaks(family):
    """On two levels of one block each, which hold every branch that a family takes."""
    two = replace(SMALL[family], image_size=8, channel_mult=(1, 2), blocks=1, attention=(4,))
    unet = UNet(two).eval()
    x, t = small.inputs(8)
    compiled = torch.compile(unet, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.float(), t), unet(x.float(), t), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x.float(), t), unet(x.float(), t), rtol=0, atol=0)


@pytest.mark.slow
@torch.no_grad()
def test_the_real_cifar10_network_equals_diffusers():
    arch = ARCHITECTURES["ddpm_cifar10"]
    oracle = diffusers_unet(arch)
    oracle.load_state_dict(
        {k: randomised(k, tuple(v.shape)).float() for k, v in oracle.state_dict().items()}
    )
    unet = UNet(arch).eval()
    unet.load_state_dict(key_maps.rename_keys(oracle.state_dict(), unet))
    x, t = small.inputs(32)
    expected = oracle(x.float(), t).sample
    # diffusers' own float32 angles are another rounding of the same formula: 1e-4 in an angle
    assert difference(unet(x.float(), t), expected) < 1e-3
    oracle.time_proj = Sinusoids(arch)
    assert difference(unet(x.float(), t), oracle(x.float(), t).sample) < 1e-5


@pytest.mark.slow
def test_the_real_cifar10_network_samples_on_a_cpu(tmp_path):
    import pndm

    unet = UNet(ARCHITECTURES["ddpm_cifar10"])
    torch.save(unet.state_dict(), tmp_path / "random.ckpt")
    unet = pndm.models.load(tmp_path / "random.ckpt", architecture="ddpm_cifar10")
    x_T = pndm.initial_noise(range(8), (3, 32, 32))
    x_0 = pndm.sample(
        unet, x_T, solver=pndm.solvers.plms(), schedule=pndm.schedules.linear(), steps=10
    )
    assert x_0.shape == (8, 3, 32, 32) and x_0.isfinite().all()
