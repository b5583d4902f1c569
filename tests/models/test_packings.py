"""Packings of training codes and wrappers: weights and their average, in small."""

from collections import OrderedDict

import pytest
import torch

from pndm.models import key_maps
from pndm.models.packings import unpack
from pndm.models.registry import CheckpointError

SIGN = key_maps.SIGNATURE_KEYS["ddpm"]
NAMES = ("conv_in.weight", SIGN, "norm_out.bias")
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3), "step": 7}}, "param_groups": [{"lr": 1e-4}]}


def network(value, prefix=""):
    """A state_dict of three tensors that hold a value."""
    return {prefix + name: torch.full((2,), float(value)) for name in NAMES}


def is_network(state, value):
    return list(state) == list(NAMES) and all((v == value).all() for v in state.values())


def refused(match, content, ema=True):
    with pytest.raises(CheckpointError, match=match) as caught:
        unpack(content, ema, "file.pt")
    message = str(caught.value)
    assert message.startswith("file.pt") and "\n" not in message
    return message


PREFIXES = (
    *("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."),
    *("denoise_fn.", "diffusion_model.", "model.diffusion_model.", "model._orig_mod.module.unet."),
    *("_forward_module.", "_fsdp_wrapped_module._orig_mod.", "state_dict.model."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers(prefix):
    state, packing, average = unpack(network(3, prefix), True, "file.pt")
    assert is_network(state, 3) and packing is None and average is None


def test_what_wrappers_put_inside_names_and_beside_them():
    inside = {key.replace(".", "._orig_mod.", 1): value for key, value in network(3).items()}
    assert is_network(unpack(inside, True, "file.pt")[0], 3)
    neighbour = {"betas": torch.ones(9), "loss.weight": torch.ones(1), **network(3, "model.")}
    assert is_network(unpack(neighbour, True, "file.pt")[0], 3)
    neighbour = {"epoch_embedding": torch.ones(1), **network(3)}
    assert "epoch_embedding" in unpack(neighbour, True, "file.pt")[0]  # named later as unexpected


BARE = {
    "state_dict": lambda s: {"state_dict": s},
    "params": lambda s: {"params": s},
    "model": lambda s: {"model": s, "args": {"lr": 1}},
    "weights": lambda s: OrderedDict(weights=OrderedDict(s)),
    "two levels": lambda s: {"model": {"state_dict": s}},
}


@pytest.mark.parametrize("wrap", BARE.values(), ids=BARE)
def test_weights_in_a_box_without_a_training(wrap):
    for ema in (True, False):
        state, _, average = unpack(wrap(network(3)), ema, "file.pt")
        assert is_network(state, 3) and average is None


LAST_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "unet",
    "params",
    "module",
    "network",
)
AVERAGE_KEYS = (
    *("ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "params_ema"),
    *("emaModel", "state_dict_ema", "ema_0.9999", "swa_model", "averaged_model", "average"),
    *("EMA", "net_ema", "ema_weights", "model-ema", "shadow"),
)


@pytest.mark.parametrize("key", AVERAGE_KEYS)
def test_an_average_by_any_name(key):
    for i, last in enumerate(LAST_KEYS):
        content = {"epoch": 3, last: network(1, "module." * (i % 2)), "optimizer": OPTIMIZER}
        content[key] = network(2, "module." * (i // 2 % 2))
        for items in (content, dict(reversed(content.items()))):
            state, _, average = unpack(items, True, "file.pt")
            assert is_network(state, 2) and average is True
            state, _, average = unpack(items, False, "file.pt")
            assert is_network(state, 1) and average is False


@pytest.mark.parametrize(
    "average",
    [
        {"ema_model.": 2, "online_model.": 1},
        {"ema_model.module.": 2},
        {"model.module.": 2},
        {"model.": 2},
    ],
)
def test_averages_in_a_module_of_their_own(average):
    inner = {"step": torch.tensor(3), "initted": torch.tensor(True)}
    for prefix, value in average.items():
        inner |= network(value, prefix)
    content = {"step": 3, "model": network(1), "opt": OPTIMIZER, "ema": inner}
    assert is_network(unpack(content, True, "file.pt")[0], 2)
    assert is_network(unpack(content, False, "file.pt")[0], 1)


def test_the_shadow_parameters_of_a_list():
    last = {"sigmas": torch.ones(5), **network(1)}
    for key in ("ema", "ema_state", "model_ema"):
        for extra in ({}, {"collected_params": [], "decay": 0.99}):
            shadow = {"shadow_params": list(network(2).values()), "num_updates": 4, **extra}
            content = {"optimizer": OPTIMIZER, "model": last, key: shadow}
            assert is_network(unpack(content, True, "file.pt")[0], 2)
    content = {"model": last, "ema_params": list(network(2).values()), "step": 1}
    assert is_network(unpack(content, True, "file.pt")[0], 2)
    content["ema_params"].append(torch.ones(1))
    refused("4 averages for 3 parameters", content)
    refused("averages without the names", {"ema": {"shadow_params": [torch.ones(1)]}})


def test_a_real_averaged_model_of_torch():
    inner = torch.nn.Module()
    inner.register_parameter("conv_in", torch.nn.Parameter(torch.ones(2)))
    model = torch.nn.Sequential(OrderedDict(temb=torch.nn.Module(), rest=inner))
    model.temb.dense = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    averaged = torch.optim.swa_utils.AveragedModel(model)
    refused("never updated", {"state": averaged.state_dict()})
    averaged.update_parameters(model)
    state = averaged.state_dict()
    assert "n_averaged" in state
    for content in (
        state,
        {"swa": state},
        {"model": model.state_dict(), "copy": state, "step": 1},
    ):
        result, _, average = unpack(content, True, "file.pt")
        assert average is True and result.keys() == model.state_dict().keys()
    refused("only an average", state, ema=False)


def test_lightning():
    loops = {"epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.5", "loops": {}}
    state = network(1, "model.")
    both = {**state, **network(2, "ema_model."), "betas": torch.ones(4)}
    for content in (
        {**loops, "state_dict": both},
        {**loops, "state_dict": {**state, **network(2, "model_ema.module.")}},
        {**loops, "state_dict": state, "callbacks": {"EMACallback": {"ema_state": network(2)}}},
        {**loops, "state_dict": state, "ema_state_dict": network(2, "model.")},
        # WeightAveraging keeps the average where the last weights were
        {**loops, "state_dict": network(2, "net."), "current_model_state": network(1, "net.")},
    ):
        assert is_network(unpack(content, True, "file.pt")[0], 2)
        assert is_network(unpack(content, False, "file.pt")[0], 1)
    assert is_network(unpack({**loops, "state_dict": state}, False, "file.pt")[0], 1)
    refused("no moving average.*its keys are epoch.*ema=False", {**loops, "state_dict": state})


def test_mmengine_swaps_the_two():
    content = {"meta": {}, "message_hub": {}, "state_dict": network(2)}
    content["ema_state_dict"] = {"steps": torch.tensor(5), **network(1, "module.")}
    assert is_network(unpack(content, True, "file.pt")[0], 2)
    assert is_network(unpack(content, False, "file.pt")[0], 1)


def test_names_without_dots():
    """latent-diffusion's LitEma: buffers may have no dots."""
    flat = {f"model_ema.diffusion_model{k.replace('.', '')}": v for k, v in network(2).items()}
    last = network(1, "model.diffusion_model.")
    content = {**last, **flat, "model_ema.decay": torch.tensor(0.99)}
    for updates in (torch.tensor(5), torch.tensor(-1)):
        content["model_ema.num_updates"] = updates
        for wrap in (lambda c: c, lambda c: {"state_dict": c, "epoch": 1}):
            assert is_network(unpack(wrap(content), True, "file.pt")[0], 2)
            assert is_network(unpack(wrap(content), False, "file.pt")[0], 1)
    content["model_ema.num_updates"] = torch.tensor(0)
    refused("never updated", content)


def test_odd_counters_and_averages_of_one_tensor():
    """What is no number of updates says nothing of them."""
    average = {"num_updates": torch.ones(2), **network(2, "ema_model.")}
    content = {"model": network(1), "ema": average}
    assert is_network(unpack(content, True, "file.pt")[0], 2)
    refused("holds ema, but no average", {"model": network(1), "ema": torch.ones(2)})


def test_a_dictionary_that_holds_itself():
    content = {"model": network(1)}
    content["self"] = content
    refused("holds itself, or dictionaries nested too deeply", content)


def test_an_average_that_has_not_begun():
    inner = {"initted": torch.tensor(False), **network(2, "ema_model.")}
    refused("never updated", {"model": network(1), "ema": inner, "step": 1})


def test_what_may_be_meant_is_never_guessed():
    two = {"ema_0.999": network(2), "ema_0.9999": network(3), "model": network(1)}
    message = refused("several networks", two)
    assert "ema_0.999, ema_0.9999" in message and "ema=False" not in message
    assert is_network(unpack(two, False, "file.pt")[0], 1)
    message = refused("teacher, student", {"teacher": network(1), "student": network(2)})
    assert "ema=False" not in message
    # what is called an average and cannot be read is named, and the last weights not advised
    odd = {"model": network(1), "ema": {"deltas": [torch.ones(1), 3]}, "step": 3}
    assert "ema=False" not in refused("holds ema, but no average", odd)
    for nothing in (None, {}, [], 0.0):
        refused("no moving average", {"model": network(1), "ema": nothing, "step": 3})
    assert is_network(unpack({"model_ema": network(2), "step": 2}, True, "file.pt")[0], 2)
    refused("only an average", {"model_ema": network(2), "step": 2}, ema=False)
    assert is_network(unpack({"non_ema": network(1), "ema": network(2)}, True, "file.pt")[0], 2)


def test_a_foreign_network_is_taken_out_of_its_box():
    """So that the message can name its tensors."""
    state = {"features.0.weight": torch.ones(1)}
    for content in (state, {"state_dict": state}, {"model": state, "optimizer": OPTIMIZER}):
        assert unpack(content, True, "file.pt")[0] == state
    refused("holds a Tensor, not a state_dict", torch.ones(1))
    refused("holds a list, not a state_dict", [])
