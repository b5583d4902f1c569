"""The classifiers: their accuracy, their features, their files and their cards."""

import json
from dataclasses import replace

import pytest
import torch

from pndm._files import sha256
from pndm.config.schema import CLASSIFIER_IMAGES
from pndm.data import datasets, images
from pndm.evaluation import classifier

NAMES = list(classifier.RECIPES)
LEAST = {"digits": 0.98, "fashion": 0.92}
"""Accuracy on images that were not learnt from."""


def about(name):
    return json.loads(classifier.RECIPES[name].weights.with_suffix(".json").read_text())


def some(name):
    """Images that a classifier's features are of, without files: random ones for clothes."""
    if name == "digits":
        return datasets.digits().images
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (200, 1, 28, 28), generator=generator, dtype=torch.uint8)


def test_settings_know_the_images_that_each_is_of():
    sizes = {name: recipe.size for name, recipe in classifier.RECIPES.items()}
    assert {name: (1, size, size) for name, size in sizes.items()} == CLASSIFIER_IMAGES


@pytest.fixture(scope="module")
def model():
    return classifier.load()


@pytest.fixture(scope="module")
def features(model):
    model = classifier.load().double()
    return model.features(datasets.digits().images)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_describes_the_file(name):
    recipe, card = classifier.RECIPES[name], about(name)
    assert card["sha256"] == sha256(recipe.weights)
    assert card[f"accuracy_{recipe.test_part}"] >= LEAST[name]
    assert card["features"] == card["rank"] == recipe.features
    assert card["condition_number"] < 1e4
    assert recipe.weights.stat().st_size < 1.5e6


def test_the_card_of_digits_tells_what_is_measured(model):
    assert about("digits")["accuracy_holdout"] == classifier.accuracy(model, "holdout")
    rank, condition = classifier.spectrum(model)
    assert rank == 64
    assert about("digits")["condition_number"] == pytest.approx(condition, rel=1e-3)


def test_features_are_standardised_and_of_full_rank(features):
    assert features.shape == (1797, 64)
    assert features.mean(0).abs().max() < 1e-5
    assert (features.std(0) - 1).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(features) == 64
    assert (features < 0).any(0).all() and (features > 0).any(0).all()  # no ReLU has been here


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_the_batch(name):
    exact = classifier.load(name).double()
    whole, alone = exact.features(some(name)), exact.features(some(name)[5:8])
    assert whole.shape == (len(some(name)), classifier.RECIPES[name].features)
    assert (alone - whole[5:8]).abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_features_refuse_other_images(name):
    size = classifier.RECIPES[name].size
    for wrong in (
        torch.zeros(2, 3, size, size).byte(),
        torch.zeros(2, 1, size, size),
        torch.zeros(2, 1, 9, 9).byte(),
    ):
        with pytest.raises(ValueError, match=f"{name} features are of uint8"):
            classifier.load(name).features(wrong)


def test_correlation_is_of_different_features():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q
    assert classifier.correlation(1000 * x) < 1e-3
    twice = 1000 * torch.cat([x[:, :1], -x[:, :1]], 1)
    assert classifier.correlation(twice) == pytest.approx(1, rel=1e-3)


def test_shifts_are_by_one_pixel_and_pad_with_black():
    torch.manual_seed(0)
    x = images.from_uint8(datasets.digits().images[:50])
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).reshape(50, 9, 8, 8)
    found = (windows == classifier.shifted(x)).all((2, 3))
    assert found.any(1).all() and found.float().argmax(1).unique().numel() == 9


def test_a_flip_mirrors_some_images():
    torch.manual_seed(0)
    x = torch.rand(50, 1, 4, 4)
    found = classifier.flipped(x)
    mirrored, same = (found == x.flip(3)).all((1, 2, 3)), (found == x).all((1, 2, 3))
    assert (mirrored ^ same).all() and 10 < mirrored.sum() < 40


@pytest.mark.slow
def test_clothes_are_learnt_by_the_same_code(tmp_path, monkeypatch):
    def load(part):
        return datasets.TensorImages(some("fashion"))

    def labels(part):
        return torch.arange(200) % 10

    recipe = replace(classifier.RECIPES["fashion"], load=load, labels=labels)
    monkeypatch.setitem(classifier.RECIPES, "fashion", recipe)
    path = tmp_path / "clothes.safetensors"
    classifier.main(["fashion", "--steps", "2", "--output", str(path)])
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["dataset"] == "fashion_mnist" and card["command"].endswith(
        "fashion --seed 0 --steps 2"
    )
    found = classifier.load("fashion", path).double().features(some("fashion"))
    assert found.mean(0).abs().max() < 1e-4 and (found.std(0) - 1).abs().max() < 1e-4


@pytest.mark.slow
def test_training_is_deterministic_and_leaves_only_whole_files(tmp_path):
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        classifier.main(["--seed", "3", "--steps", "3", "--output", str(path)])
    assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "b.safetensors")
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["seed"] == 3 and card["steps"] == 3
    assert (
        sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".json"] + [".safetensors"] * 2
    )
    with pytest.raises(SystemExit, match="error: --steps must be 1 or more"):
        classifier.main(["--steps", "0"])
