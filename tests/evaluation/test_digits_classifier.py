"""The digits classifier: its accuracy, its features, its file and its card."""

import json

import pytest
import torch

from pndm._files import sha256
from pndm.data import datasets, images
from pndm.evaluation import digits_classifier

CARD = json.loads(digits_classifier.WEIGHTS.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def model():
    return digits_classifier.load()


@pytest.fixture(scope="module")
def features(model):
    model = digits_classifier.load().double()
    return model.features(datasets.digits().images)


def test_the_card_describes_the_file(model):
    assert CARD["sha256"] == sha256(digits_classifier.WEIGHTS)
    assert CARD["accuracy_holdout"] == digits_classifier.accuracy(model, "holdout") >= 0.98
    rank, condition = digits_classifier.spectrum(model)
    assert CARD["rank"] == rank == 64
    assert CARD["condition_number"] == pytest.approx(condition, rel=1e-3)


def test_features_are_standardised_and_of_full_rank(features):
    assert features.shape == (1797, 64)
    assert features.mean(0).abs().max() < 1e-5
    assert (features.std(0) - 1).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(features) == 64
    assert (features < 0).any(0).all() and (features > 0).any(0).all()  # no ReLU has been here


def test_features_do_not_depend_on_the_batch(features):
    batch = datasets.digits().images[5:8]
    alone = digits_classifier.load().double().features(batch)
    assert (alone - features[5:8]).abs().max() < 1e-12


def test_features_refuse_other_images(model):
    for wrong in (torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2, 1, 8, 8)):
        with pytest.raises(ValueError, match="uint8"):
            model.features(wrong)


def test_correlation_is_of_different_features():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q
    assert digits_classifier.correlation(1000 * x) < 1e-3
    twice = 1000 * torch.cat([x[:, :1], -x[:, :1]], 1)
    assert digits_classifier.correlation(twice) == pytest.approx(1, rel=1e-3)


def test_shifts_are_by_one_pixel_and_pad_with_black():
    torch.manual_seed(0)
    x = images.from_uint8(datasets.digits().images[:50])
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).reshape(50, 9, 8, 8)
    result = (windows == digits_classifier.shifted(x)).all((2, 3))
    assert result.any(1).all() and result.float().argmax(1).unique().numel() == 9


@pytest.mark.slow
def test_training_is_deterministic_and_leaves_only_whole_files(tmp_path, capsys):
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        digits_classifier.main(["--seed", "3", "--steps", "3", "--output", str(path)])
    assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "b.safetensors")
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["seed"] == 3 and card["steps"] == 3
    assert (
        sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".json"] + [".safetensors"] * 2
    )
    with pytest.raises(SystemExit):
        digits_classifier.main(["--steps", "0"])
    assert "--steps must be 1 or more" in capsys.readouterr().err
