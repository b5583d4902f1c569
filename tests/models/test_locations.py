"""Folders, parts and cards of weights, and the files that `convert` must not overwrite."""

import json
import os
from dataclasses import replace
from functools import cache

import pytest
import safetensors.torch
import torch
from references.parameters import randomised

import pndm
from pndm._files import sha256
from pndm.models import cards, locations
from pndm.models.__main__ import main
from pndm.models.architectures import ARCHITECTURES
from pndm.models.registry import CheckpointError
from pndm.models.unet import UNet

TINY = replace(
    ARCHITECTURES["ddpm_cifar10"],
    image_size=8,
    channels=8,
    norm_groups=4,
    channel_mult=(1, 2),
    blocks=1,
    attention=(),
)
STEM = "diffusion_pytorch_model"


@cache
def weights(version=0):
    """A state_dict; versions differ in every value."""
    state = UNet(TINY).state_dict()
    return {k: randomised(f"{version} {k}", tuple(v.shape)).float() for k, v in state.items()}


def write(path, version=0, half=False):
    """Write weights in the format of a file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if half else v.clone() for k, v in weights(version).items()}
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def is_version(unet, version):
    return all(torch.equal(v, weights(version)[k]) for k, v in unet.state_dict().items())


def load(path, **options):
    return pndm.models.load(path, architecture=TINY, **options)


def write_parts(folder, suffix=".safetensors", index=None, count=3):
    """The same weights in several files and the list of them, as diffusers and others write it."""
    folder.mkdir(parents=True, exist_ok=True)
    keys, places = list(weights()), {}
    for i in range(count):
        name = f"{STEM}-{i + 1:05}-of-{count:05}{suffix}"
        part = {key: weights()[key].clone() for key in keys[i::count]}
        save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
        save(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = folder / (index or f"{STEM}{suffix}.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


# Folders


def test_the_average_and_full_precision_are_preferred(tmp_path):
    """Every file by itself is enough; each added one is preferred to those before."""
    order = [
        f"unet/{STEM}.bf16.bin",
        f"unet/{STEM}.fp16.safetensors",
        f"unet/{STEM}.bin",
        f"unet/{STEM}.safetensors",
        f"unet_ema/{STEM}.fp16.safetensors",
        f"unet_ema/{STEM}.safetensors",
        f"{STEM}.fp16.bin",
        f"{STEM}.bin",
        f"{STEM}.safetensors",
        f"{STEM}.ema.safetensors",
    ]
    for i, name in enumerate(order):
        path = write(tmp_path / name, half="16" in name)
        assert locations.locate(str(tmp_path)) == path
        last = {4: 3, 5: 3, 9: 8}.get(i, i)
        expected = tmp_path / order[last]
        assert locations.locate(str(tmp_path), ema=False) == expected
    assert is_version(load(tmp_path), 0)


def test_archives_hold_averages_in_folders_of_their_own():
    names = [f"m/unet/{STEM}.safetensors", f"m/unet_ema/{STEM}.safetensors"]
    assert locations.member_of(names, True) == names[1]
    assert locations.member_of(names, False) == names[0]
    assert locations.member_of(names[1:], False) is None
    assert locations.member_of([*names, f"m/{STEM}.bin"], True) == names[1]
    assert locations.member_of([f"m/{STEM}.bin"], True) == f"m/{STEM}.bin"


def test_what_a_place_says_of_averages(tmp_path):
    write(tmp_path / f"unet/{STEM}.safetensors", 1)
    assert load(tmp_path).provenance["ema"] is None
    write(tmp_path / f"unet_ema/{STEM}.safetensors", 2)
    average, last = load(tmp_path), load(tmp_path, ema=False)
    assert is_version(average, 2) and average.provenance["ema"] is True
    assert is_version(last, 1) and last.provenance["ema"] is False
    non_ema = write(tmp_path / f"other/{STEM}.non_ema.safetensors", 1)
    for path in (tmp_path / "other", non_ema, tmp_path / "unet"):
        with pytest.raises(CheckpointError, match="non_ema|holds last weights") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert load(tmp_path / "other", ema=False).provenance["ema"] is False


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("place", ["", "unet"])
def test_parts(tmp_path, suffix, place):
    index = write_parts(tmp_path / place, suffix)
    unet = load(tmp_path)
    assert is_version(unet, 0) and unet.provenance["file"] == index.name
    assert unet.provenance["name"] == tmp_path.name
    before = locations.weights_sha256(index)
    assert before == unet.provenance["sha256"] != sha256(index)
    one, *_, last = locations.parts(index)
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert locations.weights_sha256(index) != before
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{last.name}.* truncated or damaged"):
        load(tmp_path)
    last.unlink()
    with pytest.raises(CheckpointError, match=rf"1 are missing \({last.name}\)"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="is one part"):
        load(one)


@pytest.mark.parametrize("name", ["index.fp16.json", "index.json"])
def test_parts_of_a_variant(tmp_path, name):
    write_parts(tmp_path / "fp16", index=f"{STEM}.safetensors.{name}")
    assert is_version(load(tmp_path / "fp16"), 0)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", "[" * 100_000, '{"weight_map": [1]}', '{"weight_map": {}}'),
        *('{"weight_map": {"a": [1]}}', '{"weight_map": {"a": "b/c"}}'),
    ],
)
def test_a_list_of_parts_that_is_none(tmp_path, content):
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="not an index of weights|lists 0 parts"):
        load(tmp_path)


def test_a_folder_of_other_files_names_them(tmp_path):
    write(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"name one of its files \(last.ckpt\)"):
        load(tmp_path)


# Cards


CARD = {"name": "mine", "architecture": "digits_cosine", "ema": 0.9995}
FOREIGN = {
    "settings": '{"lr": 0.001, "schedule": "cosine"}',
    "a list": "[1, 2]",
    "a number": "3",
    "a log of lines": '{"loss": 1}\n{"loss": 2}\n',
    "with a byte order mark": '\ufeff{"lr": 1}',
    "another site's card": '{"name": "a", "architecture": "sd15", "sha256": "00"}',
    "another site's hash": '{"modelId": 3, "sha256": "00"}',
    "a list of networks": '{"name": "a", "architecture": ["digits_linear"], "sha256": "00"}',
    "a network's settings": '{"name": "a", "architecture": {}, "sha256": "00"}',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_the_json_of_others_is_no_card(tmp_path, content):
    path = write(tmp_path / "w.safetensors")
    path.with_suffix(".json").write_text(content, encoding="utf-8")
    unet = load(path)
    assert is_version(unet, 0) and unet.provenance["name"] == "w"
    assert "schedule" not in unet.provenance


def test_a_card_says_what_was_trained_on(tmp_path):
    path = write(tmp_path / "w.safetensors")
    message = {"schedule": "cosine", "timesteps": 100, "prediction": "velocity"}
    path.with_suffix(".json").write_text(json.dumps(CARD | message | {"sha256": sha256(path)}))
    unet = load(path)
    assert message.items() <= unet.provenance.items()
    assert unet.provenance["name"] == "mine" and unet.provenance["ema"] is True
    # and still does when it is written again
    unet.provenance["architecture"] = "digits_cosine"
    pndm.models.checkpoints.save(unet, tmp_path / "new" / "w.safetensors")
    assert cards.trained_on(tmp_path / "new" / "w.safetensors") == message


def test_registered_weights_say_it_too():
    message = pndm.models.load("digits_cosine").provenance
    assert (message["schedule"], message["timesteps"]) == ("cosine", 1000)


SCHEDULERS = [
    ({}, {"schedule": "linear", "prediction": "noise"}),
    (
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100, "beta_end": 0.02},
        {"schedule": "cosine", "timesteps": 100, "prediction": "noise"},
    ),
    (
        {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "prediction_type": "v_prediction"},
        {"schedule": "scaled_linear", "beta_start": 1e-3, "prediction": "velocity"},
    ),
    ({"beta_schedule": "sigmoid", "prediction_type": "sample"}, {"prediction": "data"}),
    ({"trained_betas": [0.1]}, {}),
    ([1], {}),
]


@pytest.mark.parametrize(("config", "said"), SCHEDULERS)
@pytest.mark.parametrize("place", ["scheduler_config.json", "../scheduler/scheduler_config.json"])
def test_the_scheduler_of_a_folder_says_it(tmp_path, place, config, said):
    path = write(tmp_path / f"unet/{STEM}.safetensors")
    there = path.parent / place
    (tmp_path / "scheduler").mkdir()
    there.write_text(json.dumps(config))
    assert cards.trained_on(path) == said
    for content in ("{", "[" * 100_000):
        there.write_text(content)
        assert cards.trained_on(path) == {}
    for key in ("beta_schedule", "prediction_type"):
        for value in (["linear"], {}):
            there.write_text(json.dumps({key: value}))
            with pytest.raises(CheckpointError, match="is not a scheduler's config of diffusers"):
                cards.trained_on(path)


# convert


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Own files for the smallest architecture that has a name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    state = {k: v.half() for k, v in pndm.models.load("digits_linear").state_dict().items()}
    safetensors.torch.save_file(state, "my.safetensors")
    for folder in "ab":
        os.mkdir(folder)
        torch.save({k: v + (folder == "b") for k, v in state.items()}, f"{folder}/model.pt")
    return tmp_path


def everything(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def convert(*words):
    return main(["convert", *map(str, words), "--architecture", "digits_linear"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("my.safetensors",), "belongs to the input"),
        (("my.safetensors", "--overwrite"), "belongs to the input"),
        (("./a/../my.safetensors", "--output", "b/.."), "belongs to the input"),
        (("a/model.pt", "b/model.pt"), "both be written to model.safetensors"),
        (("a/model.pt", "b/model.pt", "--overwrite"), "both be written to model.safetensors"),
        (("a/model.pt", "a/model.pt"), "both be written"),
        (("a/model.pt", "my.safetensors"), "belongs to the input"),
        (("a/model.pt", "--output", "new.safetensors"), "a folder, not a file"),
        (("a/model.pt", "--output", "my.safetensors"), "a folder, not a file"),
        (("a/model.pt", "b/missing.pt"), "there is no file"),
    ],
)
def test_convert_loses_nothing(digits, capsys, words, message):
    before = everything(digits)
    assert convert(*words) == 1
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out
    assert everything(digits) == before


@pytest.mark.parametrize("there", ["model.safetensors", "model.json"])
def test_convert_overwrites_only_where_told_to(digits, capsys, there):
    (digits / there).write_text("mine")
    assert convert("a/model.pt") == 1
    assert f"{there} exists already" in capsys.readouterr().err
    assert (digits / there).read_text() == "mine"
    assert convert("a/model.pt", "--overwrite") == 0
    assert pndm.models.load("model.safetensors").provenance["architecture"] == "digits_linear"
    assert convert("a/model.pt") == 1  # twice


def test_convert_through_a_link_and_beside_a_json_of_the_input(digits, capsys):
    os.symlink("my.safetensors", "link.safetensors")
    assert convert("link.safetensors", "--overwrite") == 1
    os.mkdir("out")
    os.symlink("../my.safetensors", "out/link.safetensors")
    (digits / "my.json").write_text('{"lr": 1}')
    before = everything(digits)
    for words in (("link.safetensors",), ("my.safetensors",), ("link.safetensors", "--overwrite")):
        output = "out" if words[0][0] == "l" else "."
        assert convert(*words, "--output", output) == 1
    assert everything(digits) == before
    assert convert("my.safetensors", "--output", "new/folder") == 0
    assert (digits / "new/folder/my.json").exists()


def test_folders_are_called_by_their_names(digits):
    state = {k: v.clone() for k, v in pndm.models.load("digits_linear").state_dict().items()}
    for name in ("one", "two"):
        os.mkdir(name)
        safetensors.torch.save_file(state, f"{name}/{STEM}.safetensors")
    assert convert("one", "two", "--output", "out") == 0
    assert sorted(path.name for path in (digits / "out").glob("*.safetensors")) == [
        "one.safetensors",
        "two.safetensors",
    ]
