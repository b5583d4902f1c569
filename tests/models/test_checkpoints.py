"""Every public file format, built as upstream writes it; and all rejected files."""

import json
import os
import pickle
import zipfile
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import torch
from references import small
from references.families import diffusers_unet
from references.parameters import randomised

import pndm
from pndm._errors import FileError
from pndm._files import sha256
from pndm.models import cards, checkpoints, files, key_maps, registry
from pndm.models.architectures import ARCHITECTURES
from pndm.models.registry import WEIGHTS, CheckpointError
from pndm.models.unet import UNet

TINY = replace(
    ARCHITECTURES["ddpm_cifar10"],
    image_size=8,
    channels=8,
    norm_groups=4,
    channel_mult=(1, 2, 2),
    blocks=1,
    attention=(4,),
)


DEEP = '{"a": ' * 100_000
"""JSON that Python's parser does not follow to its end."""


@cache
def weights(version: int = 0) -> dict:
    """A state_dict under the DDPM names; versions differ in every value."""
    state = UNet(TINY).state_dict()
    return {k: randomised(f"{version} {k}", tuple(v.shape)).float() for k, v in state.items()}


def prefixed(state: dict) -> dict:
    """The names that torch.nn.DataParallel gives."""
    return {f"module.{key}": value for key, value in state.items()}


def optimizer() -> dict:
    """An optimizer's state_dict, which holds not only tensors."""
    moments = {"step": 7, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    return {"state": {0: moments}, "param_groups": [{"lr": 2e-4, "amsgrad": False, "params": [0]}]}


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def equal(unet: UNet, state: dict) -> bool:
    result = unet.state_dict()
    return result.keys() == state.keys() and all(torch.equal(result[k], state[k]) for k in state)


def load(path, architecture=TINY, **options) -> UNet:
    return pndm.models.load(path, architecture=architecture, **options)


def refused(match: str, path, architecture=TINY, **options) -> str:
    """Loading fails with one line, which says `match`."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load(path, architecture, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What loads


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_raw(tmp_path, zipped):
    path = saved(weights(), tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    unet = load(path, format="ddpm")
    assert equal(unet, weights())
    assert not unet.training
    assert unet.provenance == {
        "name": "model",
        "architecture": None,
        "format": "ddpm",
        "ema": None,
        "file": "model.ckpt",
        "sha256": sha256(path),
    }


def test_an_architecture_by_name(tmp_path):
    state = UNet(ARCHITECTURES["digits_linear"]).state_dict()
    unet = load(str(saved(state, tmp_path / "x.pt")), "digits_linear")
    assert equal(unet, state) and unet.provenance["architecture"] == "digits_linear"
    x = torch.randn(2, 1, 8, 8)
    assert unet(x, torch.tensor([3.5, 999.0])).shape == x.shape


@pytest.mark.parametrize("wrap", [dict, prefixed])
def test_ermongroup(tmp_path, wrap):
    content = [prefixed(weights(0)), optimizer(), 12, 34_000, wrap(weights(1))]
    path = saved(content, tmp_path / "ckpt.pth")
    unet = load(path)
    assert equal(unet, weights(1))
    assert unet.provenance["format"] == "ermongroup" and unet.provenance["ema"] is True
    last = load(path, ema=False)
    assert equal(last, weights(0)) and last.provenance["ema"] is False


def test_ermongroup_without_average(tmp_path):
    path = saved([prefixed(weights()), optimizer(), 12, 34], tmp_path / "ckpt.pth")
    refused("no moving average.*ema=False", path)
    assert equal(load(path, ema=False), weights())


@pytest.mark.parametrize("family", small.REFERENCE)
def test_raw_files_of_other_codes(tmp_path, family):
    """By output, in single precision: the references read the same upstream names."""
    state, arch = small.state(family), small.ARCHITECTURE[family]
    x, t = small.inputs(16)
    expected = small.REFERENCE[family](state, x, t)[:, :3]
    content = {key: value.float() for key, value in state.items()}
    if family != "iddpm_cifar10":
        content = {"sigmas": torch.zeros(1000), **content}
    unet = load(saved(content, tmp_path / "model.pt"), arch)
    assert unet.provenance["format"] == ("iddpm" if "iddpm" in family else "score_sde")
    assert (unet(x.float(), t / arch.time_scale) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["pf_cifar10", "pf_deep_cifar10"])
def test_score_sde(tmp_path, family):
    """The average is a list in the order of the parameters, the buffer `sigmas` not among them."""
    arch, average = small.ARCHITECTURE[family], small.state(family)
    average = {key: value.float() for key, value in average.items()}
    last = {key: value + 1 for key, value in average.items()}
    content = {
        "optimizer": optimizer(),
        "model": prefixed({"sigmas": torch.linspace(0, 1, 1000), **last}),
        "ema": {"decay": 0.9999, "num_updates": 5, "shadow_params": list(average.values())},
        "step": 5,
    }
    path = saved(content, tmp_path / "checkpoint_8.pth")
    unet = load(path, arch, format="score_sde")
    assert equal(unet, key_maps.rename_keys(average, unet)) and unet.provenance["ema"] is True
    unet = load(path, arch, ema=False)
    assert equal(unet, key_maps.rename_keys(last, unet)) and unet.provenance["ema"] is False
    content["ema"]["shadow_params"].pop()
    refused("averages for", saved(content, path), arch)
    del content["ema"]
    refused("no moving average", saved(content, path), arch)


@pytest.mark.parametrize("family, part", [("pf_cifar10", ".NIN_0.W"), ("iddpm_cifar10", ".qkv.")])
@pytest.mark.parametrize("shape", [(), (0,), (5,)])
def test_tensors_of_other_axes_than_their_names_say(tmp_path, family, part, shape):
    state = {key: value.float() for key, value in small.state(family).items()}
    key = next(key for key in state if part in key)
    path = saved({**state, key: torch.zeros(shape)}, tmp_path / "model.pt")
    refused("does not fit", path, small.ARCHITECTURE[family])


@pytest.fixture(scope="module")
def diffusers_state() -> dict:
    """Our random weights inside diffusers' network: its own names, orders and shapes."""
    reference = diffusers_unet(TINY)
    with torch.device("meta"):
        unet = UNet(TINY)
    keys = {key: torch.tensor(float(i)) for i, key in enumerate(reference.state_dict())}
    ours = {int(value): key for key, value in key_maps.rename_keys(keys, unet).items()}
    return {
        key: weights()[ours[i]].reshape(value.shape)
        for i, (key, value) in enumerate(reference.state_dict().items())
    }


def legacy(state: dict) -> dict:
    """The attention names of diffusers before 0.17."""
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in words.items():
        state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("rename", [dict, legacy])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("place", ["", "unet/"])
def test_diffusers(tmp_path, diffusers_state, rename, suffix, place):
    file = tmp_path / "model" / place / f"diffusion_pytorch_model.{suffix}"
    file.parent.mkdir(parents=True)
    state = rename(diffusers_state)
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(state, file)
    (file.parent / "config.json").write_text("{}")
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as contents:
        contents.write(file, f"model/{place}{file.name}")
    for path in (tmp_path / "model", file, archive):
        unet = load(path)
        assert equal(unet, weights()) and unet.provenance["format"] == "diffusers"


def test_diffusers_writes_such_folders(tmp_path, diffusers_state):
    reference = diffusers_unet(TINY)
    reference.load_state_dict(diffusers_state)
    reference.save_pretrained(tmp_path / "model")
    assert equal(load(tmp_path / "model"), weights())


def test_what_diffusers_says_of_its_weights_must_fit(tmp_path, diffusers_state):
    """None of it can be seen in the tensors."""
    reference = diffusers_unet(TINY)
    reference.load_state_dict(diffusers_state)
    reference.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    message = json.loads(path.read_text())
    for wrong in (
        {"flip_sin_to_cos": True},
        {"freq_shift": 0},
        {"norm_eps": 1e-2},
        {"norm_num_groups": 2},
        {"attention_head_dim": 4},
        {"sample_size": 32},
        {"center_input_sample": True},
        {"downsample_padding": 1},
    ):
        path.write_text(json.dumps(message | wrong))
        (key,) = wrong
        refused(f"config.json says {key}=", tmp_path / "model")
    for content in ("[1]", DEEP):
        path.write_text(content)
        refused("is not a config of diffusers", tmp_path / "model")


@pytest.mark.parametrize(
    "name, fits, others",
    [
        ("ddpm_cifar10", [None, 256], [128, 64]),  # attention and middle are both 256 wide
        ("iddpm_cifar10", [64], [None, 256, 128]),  # 4 heads
    ],
)
def test_the_width_of_a_head_must_fit(tmp_path, name, fits, others):
    arch = ARCHITECTURES[name]
    path = tmp_path / f"{cards.STEM}.safetensors"
    for size in (*fits, *others):
        path.with_name("config.json").write_text(json.dumps({"attention_head_dim": size}))
        if size in fits:
            checkpoints.check_settings(path, arch)
        else:
            with pytest.raises(CheckpointError, match="says attention_head_dim="):
                checkpoints.check_settings(path, arch)


def test_own_files_and_their_cards(tmp_path):
    unet = load(saved(weights(), tmp_path / "model.ckpt"))
    unet.provenance["architecture"] = "ddpm_cifar10"
    path = tmp_path / "new" / "tiny.safetensors"
    checkpoints.save(unet, path)
    again = load(path)
    assert equal(again, weights()) and again.provenance["format"] == "pndm"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == sha256(path)
    assert card["source"]["sha256"] == sha256(tmp_path / "model.ckpt")
    # the card names the architecture, which is not that of these weights
    assert "ddpm_cifar10" in refused("does not fit", path, None)
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": "0" * 64}))
    refused("not the file that its card describes", path)
    for content in ("{", DEEP):
        path.with_suffix(".json").write_text(content)
        refused("is not a card", path)


def test_a_checkpoint_of_training(tmp_path):
    content = {"model": weights(0), "ema": weights(1), "optimizer": optimizer(), "iteration": 3}
    path = saved(content, tmp_path / "checkpoint.pt")
    assert equal(load(path), weights(1))
    assert equal(load(path, ema=False), weights(0))


@pytest.mark.parametrize("name", ["digits_linear", "digits_cosine"])
def test_the_shipped_weights(name):
    unet = pndm.models.load(name)
    assert unet.provenance["name"] == name and unet.provenance["ema"] is True
    x = pndm.initial_noise(range(4), (1, 8, 8))
    e = unet(x, torch.full((4,), 999.0))
    assert (e - x).square().mean() < 0.05  # at the end of time nearly all is noise


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_become_single(tmp_path, dtype):
    path = saved({k: v.to(dtype) for k, v in weights().items()}, tmp_path / "other.ckpt")
    assert {p.dtype for p in load(path).parameters()} == {torch.float32}


# What is refused


class Malicious:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code(tmp_path, zipped):
    content = {**weights(), "extra": Malicious(tmp_path / "ran")}
    path = saved(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=zipped)
    assert "mkdir" in refused("can run any code", path)
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    refused("evil.ckpt", path)
    assert not (tmp_path / "ran").exists()


def test_a_numpy_scalar(tmp_path):
    content = [weights(), optimizer(), np.float64(1.0), 2, weights()]
    assert "numpy" in refused("save only its tensors", saved(content, tmp_path / "x.ckpt"))


def test_truncated_files(tmp_path):
    state = weights()
    whole = {
        "zip.ckpt": saved(state, tmp_path / "a").read_bytes(),
        "old.ckpt": saved(
            state, tmp_path / "b", _use_new_zipfile_serialization=False
        ).read_bytes(),
        "own.safetensors": safetensors.torch.save(state),
    }
    for name, data in whole.items():
        for size in (100, len(data) // 2, len(data) - 1):
            path = tmp_path / name
            path.write_bytes(data[:size])
            refused("truncated or damaged.*get it again", path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", "web page"),
        (b"<?xml version='1.0'?><Error>", "web page"),
        (b"hello, world" * 100, "not a weights file"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, content, match):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    assert str(path) in refused(match, path)


@pytest.mark.parametrize(
    "content",
    [
        *([1, 2], 3, {"a": 1}, {}, {"model": {"a": 1}, "ema": {"b": 2}}),
        *(torch.zeros(3), {0: torch.zeros(1)}),
    ],
)
def test_pickles_without_a_state_dict(tmp_path, content):
    refused("not a state_dict|no state_dict", saved(content, tmp_path / "x.ckpt"))


def test_another_architecture(tmp_path):
    path = saved(weights(), tmp_path / "x.ckpt")
    message = refused("does not fit", path, replace(TINY, blocks=2))
    assert "missing (down.0.block.1.norm1.weight, " in message and "misshapen (" in message
    refused(r"\d+ unexpected \(down.1.attn.0.norm", path, replace(TINY, attention=()))
    wide = replace(TINY, channels=16)
    refused(r"misshapen \(temb.dense.0.weight \[32, 8\] for \[64, 16\], ", path, wide)
    for value in (torch.nan, 1e300):  # in single precision infinite
        bias = torch.full((8,), value, dtype=torch.float64)
        refused("not finite", saved({**weights(), "conv_in.bias": bias}, path))
    refused("unexpected", saved({"features.0.weight": torch.zeros(3)}, path))


def test_a_wrong_format(tmp_path):
    path = saved(weights(), tmp_path / "x.ckpt")
    refused("is of the format ddpm, not iddpm", path, format="iddpm")


def test_files_need_an_architecture(tmp_path):
    path = saved(weights(), tmp_path / "x.ckpt")
    refused("pass architecture=NAME, one of .*ddim_celeba", path, None)
    refused("no architecture ddpm_cifar, one of", path, "ddpm_cifar")


def test_missing_files(tmp_path):
    refused("there is no file", tmp_path / "x.ckpt")
    with pytest.raises(FileError, match="File name too long"):
        load("x" * 300)
    refused("did you mean ddpm_cifar10", "ddpm_cifar1", None)
    (tmp_path / "empty").mkdir()
    refused("folder without diffusion_pytorch_model.safetensors", tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refused("archive without", tmp_path / "empty.zip")


def test_missing_weights_say_what_to_fetch_and_where_to_put_it():
    entry = WEIGHTS["ddpm_cifar10"]
    message = refused("python -m pndm.models fetch ddpm_cifar10", "ddpm_cifar10", None)
    assert entry.url in message and str(entry.path) in message


def test_hub_offline():
    pytest.importorskip("huggingface_hub")
    refused("cannot reach|is not available", "hf://someone/something")
    refused("ask for ddpm_cifar10_nonema_hub by name", "hf://google/ddpm-cifar10-32")
    for address in ("hf://", "hf://google", "hf://google/"):
        refused("weights on the hub are hf://OWNER/NAME", address)


def test_a_registered_file_with_a_wrong_hash(monkeypatch, tmp_path):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    path = WEIGHTS["ddpm_cifar10"].path
    path.parent.mkdir(parents=True)
    saved(weights(), path)
    refused("MD5 is .* not 1fa350b9.*fetch ddpm_cifar10", "ddpm_cifar10", None)


def test_last_weights_only_by_name(monkeypatch, tmp_path):
    path = saved(weights(), tmp_path / "innocent.ckpt")
    entry = replace(WEIGHTS["ddpm_cifar10_nonema"], md5=files.md5(path.read_bytes()))
    monkeypatch.setitem(registry.WEIGHTS, entry.name, entry)
    refused("ddpm_cifar10_nonema, weights without averaging", path)
    assert equal(load(path, ema=False), weights())

    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    entry.path.parent.mkdir(parents=True)
    path.rename(entry.path)
    assert load("ddpm_cifar10_nonema").provenance["ema"] is False


def test_a_flipped_bit_in_an_archive(tmp_path):
    path = saved(weights(), tmp_path / "w.pt")
    content = bytearray(path.read_bytes())
    tensor = max(weights().values(), key=lambda tensor: tensor.numel()).numpy().tobytes()
    content[bytes(content).index(tensor) + 100] ^= 1
    path.write_bytes(content)
    refused("truncated or damaged", path)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor.to(torch.int8),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: torch.nested.nested_tensor(list(tensor)),
    ],
)
def test_tensors_that_are_no_plain_numbers(tmp_path, change):
    state = dict(weights())
    state["conv_in.weight"] = change(state["conv_in.weight"])
    refused("conv_in.weight", saved(state, tmp_path / "w.pt"))


def test_what_does_not_belong_is_named(tmp_path):
    refused("but epoch", saved({**weights(), "epoch": 3}, tmp_path / "w.pt"))
