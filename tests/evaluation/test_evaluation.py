"""FID against torch-fidelity, references and their labels, weight files that cannot be trusted."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pndm._errors import InputError
from pndm.data import datasets
from pndm.evaluation import metrics, statistics
from pndm.evaluation.__main__ import main
from pndm.evaluation.features import (
    INCEPTION_URL,
    MissingReference,
    extract_features,
    load_extractor,
    register,
)
from pndm.evaluation.metrics import fid, kid, nearest_neighbours, precision_recall, split_half_fid
from pndm.evaluation.reference import (
    PUBLISHED,
    SHIPPED,
    Reference,
    ReferenceMismatch,
    compute_reference,
    evaluation_hash,
    features_path,
    import_reference,
    load_reference,
    reference_features,
    reference_path,
)
from pndm.evaluation.statistics import Statistics


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("digits")


@pytest.fixture(scope="module")
def real(extractor):
    return extractor(datasets.digits().images)


@pytest.fixture(scope="module")
def reference(extractor):
    return load_reference("digits", extractor)


@pytest.fixture
def tiny(monkeypatch):
    """A dataset of 100 digits."""

    def load(part="all", root=None):
        return datasets.TensorImages(datasets.digits().images[:100])

    monkeypatch.setitem(datasets.DATASETS, "tiny", datasets.Source(load, "first", "none"))
    return "tiny"


def mirrored() -> torch.Tensor:
    return datasets.digits().images.flip(3)


def test_fid_is_torch_fidelitys_from_beginning_to_end(extractor, reference):
    from torch_fidelity import calculate_metrics

    other = calculate_metrics(
        input1=datasets.TensorImages(mirrored()),
        input2=datasets.digits(),
        feature_extractor=register("digits"),
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )["frechet_inception_distance"]
    blocks = statistics.blocks(extractor(mirrored()))
    ours = fid(blocks, reference)
    assert ours["value"] == pytest.approx(other, rel=1e-7)
    assert ours["low"] < ours["bias_corrected"] < ours["high"] and ours["se"] > 0
    assert ours["infinity"] == statistics.extrapolate(blocks, reference)
    assert ours["n"] == 1797 and ours["extractor"] == "digits"
    assert "not Inception" in ours["metric"] and ours["reference"] == reference.label


def test_the_data_against_themselves_are_at_distance_zero(real, reference):
    assert fid(statistics.blocks(real), reference)["value"] == pytest.approx(0, abs=1e-8)


def test_few_images_warn_and_have_no_interval(real, reference):
    with pytest.warns(UserWarning, match="64 samples for 64 features"):
        result = fid([Statistics.of(real[:30]), Statistics.of(real[30:64])], reference)
    assert result["n"] == 64 and result["se"] is result["low"] is None
    with pytest.warns(UserWarning, match="191 samples for 64 features: with fewer than 192"):
        result = fid(statistics.blocks(real[:191]), reference)
    assert result["se"] is result["bias_corrected"] is result["infinity"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fid(statistics.blocks(real[:192]), reference)["se"] > 0


def assert_both_ways_agree(a, b):
    """torch-fidelity's distance and ours, to 1e-6 of it.

    Where both covariances are singular the eigenvalues that should be 0 come with an error of √ε
    each, which is allowed for.
    """
    ours, other = statistics.frechet_distance(a, b), metrics.distance(a, b)
    traces = [m.covariance.trace().item() for m in (a, b)]
    ranks = [torch.linalg.matrix_rank(m.covariance, hermitian=True).item() for m in (a, b)]
    missing = len(a.mean) - min(ranks)
    rounding = missing * (np.finfo(float).eps * traces[0] * traces[1]) ** 0.5
    assert abs(ours - other) <= 1e-6 * abs(ours) + 1e-9 * sum(traces) + rounding


def test_singular_covariances_agree_within_their_rounding(real):
    for a, b in ((8, 9), (40, 63), (40, 500)):
        assert_both_ways_agree(Statistics.of(real[:a]), Statistics.of(real[-b:]))


def test_a_records_fid_agrees_with_our_distance(real, reference):
    for part in (real[:900], real[::3] + 0.1, real[::2] * 1.1):
        assert_both_ways_agree(Statistics.of(part), reference)


def test_features_of_another_size_are_refused(reference):
    with pytest.raises(ValueError, match="3 features against a reference of 64"):
        fid([Statistics.of(torch.randn(9, 3))], reference)


def test_extractors_refuse_what_is_no_uint8_image(extractor):
    assert (extractor.name, extractor.dimension) == ("digits", 64)
    with pytest.raises(TypeError, match="uint8"):
        extractor(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="1 channels, not 3"):
        extractor(torch.zeros(1, 3, 8, 8).byte())
    with pytest.raises(ValueError, match="did you mean digits"):
        load_extractor("digit")


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2), (100, 0)])
def test_a_reference_does_not_depend_on_how_it_was_loaded(extractor, tiny, batch_size, workers):
    usual = compute_reference(tiny, extractor)
    other = compute_reference(tiny, extractor, None, batch_size, workers)
    assert other.label == usual.label and other.n == 100
    assert torch.equal(other.mean, usual.mean)
    assert torch.equal(other.covariance, usual.covariance)


def test_a_reference_streams_in_parts(extractor, tiny, real):
    images = datasets.digits().images

    def load(part="all", root=None):
        return datasets.TensorImages(torch.cat([images, images]))

    datasets.DATASETS[tiny] = datasets.Source(load, "twice", "none")
    result = compute_reference(tiny, extractor)
    whole = Statistics.of(torch.cat([real, real]))
    assert result.n == whole.n == 3594
    assert (result.mean - whole.mean).abs().max() < 1e-12
    assert (result.covariance - whole.covariance).abs().max() < 1e-9


def test_references_round_trip_and_refuse_what_they_are_not_of(extractor, tiny, home):
    instance = compute_reference(tiny, extractor)
    path = reference_path(tiny, "digits")
    assert path == home / "references" / "tiny_digits.npz"
    with pytest.raises(MissingReference, match="reference tiny"):
        load_reference(tiny, extractor)
    instance.save(path)
    result = load_reference(tiny, extractor)
    assert result.labels == instance.labels and torch.equal(result.covariance, instance.covariance)
    for label in ("dataset", "split", "preprocessing", "extractor", "extractor_sha256"):
        dataclasses.replace(instance, **{label: "another"}).save(path)
        with pytest.raises(ReferenceMismatch, match=f"{label} is 'another'"):
            load_reference(tiny, extractor)
        with pytest.warns(UserWarning, match="is used although"):
            assert load_reference(tiny, extractor, override=True).n == 100
    dataclasses.replace(instance, mean=torch.zeros(3), covariance=torch.eye(3)).save(path)
    with pytest.raises(ReferenceMismatch, match="3 features"):
        load_reference(tiny, extractor, override=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": np.array(["a"] * 64)}, "mean must be numbers"),
        ({"mean": np.zeros(3)}, r"mean \[3\] and covariance \[64, 64\]"),
        ({"covariance": np.eye(3)}, r"mean \[64\] and covariance \[3, 3\]"),
        ({"mean": np.zeros(0), "covariance": np.zeros((0, 0))}, "are no mean"),
        ({"mean": np.full(64, np.nan)}, "NaN or infinity"),
        ({"covariance": np.full((64, 64), np.inf)}, "NaN or infinity"),
        ({"covariance": -np.eye(64)}, "covariance is no covariance"),
        ({"covariance": np.triu(np.ones((64, 64)))}, "covariance is no covariance"),
        ({"n": np.array("100")}, "n must be a number of images"),
        ({"n": np.array(1)}, "n must be a number of images"),
        ({"n": np.array(1.5)}, "n must be a number of images"),
        ({"split": np.array(["a", "b"])}, "other labels text"),
    ],
)
def test_impossible_references_are_refused(changes, said, extractor, tiny):
    path = reference_path(tiny, "digits")
    compute_reference(tiny, extractor).save(path)
    np.savez(path, **{**statistics.load_arrays(path), **changes})
    with pytest.raises(InputError, match=said) as caught:
        load_reference(tiny, extractor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_references_of_other_numbers_become_float64(dtype, extractor, tiny, real):
    path = reference_path(tiny, "digits")
    compute_reference(tiny, extractor).save(path)
    np.savez(path, **{**statistics.load_arrays(path), "mean": np.zeros(64, dtype)})
    assert fid(statistics.blocks(real), load_reference(tiny, extractor))["value"] > 0


def test_the_label_names_what_a_reference_is_of(extractor, tiny):
    result = compute_reference(tiny, extractor)
    other = dataclasses.replace(result, images_sha256="0" * 64)
    assert result.label.startswith("tiny first, n=100, pndm, ") and result.label != other.label
    same = dataclasses.replace(result, mean=result.mean + 1e-15)  # another machine's rounding
    assert result.label == same.label


@pytest.mark.parametrize("source", PUBLISHED)
def test_foreign_statistics_keep_their_label(source, extractor, tmp_path, home, capsys):
    file = tmp_path / "theirs.npz"
    np.savez(file, mu=np.zeros(64, np.float32), sigma=np.eye(64))
    words = ["cifar10", "--file", str(file), "--source", source, "--n", "50000"]
    main(["import", *words])
    path = home / "references" / f"cifar10_{source}.npz"
    assert f"reference: {path}" in capsys.readouterr().out
    with pytest.raises(ReferenceMismatch, match="extractor_sha256 is 'unknown'"):
        load_reference("cifar10", extractor, path)
    with pytest.warns(UserWarning):
        result = load_reference("cifar10", extractor, path, override=True)
    assert result.mean.dtype == torch.float64 and source in result.label
    with pytest.raises(ValueError, match="make it with .* or `import`"):
        Reference.load(file)


def test_foreign_statistics_of_another_form(tmp_path):
    np.savez(tmp_path / "a.npz", m=np.zeros(3))
    with pytest.raises(ValueError, match="no mu and sigma but m"):
        import_reference(tmp_path / "a.npz", "cifar10", "edm", 5)
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"mu \[3\] and sigma \[4, 4\]"):
        import_reference(tmp_path / "b.npz", "cifar10", "edm", 5)
    with pytest.raises(ValueError, match="did you mean edm"):
        import_reference(tmp_path / "b.npz", "cifar10", "emd", 5)


@pytest.mark.parametrize(
    ("mu", "sigma", "said"),
    [
        (np.array(["a", "b"]), np.eye(2), "must be numbers"),
        (np.array([0, np.nan]), np.eye(2), "NaN or infinity"),
        (np.zeros(2), -np.eye(2), "no covariance"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), "no covariance"),
    ],
)
def test_impossible_foreign_statistics(mu, sigma, said, tmp_path):
    np.savez(tmp_path / "a.npz", mu=mu, sigma=sigma)
    with pytest.raises(ValueError, match=said):
        import_reference(tmp_path / "a.npz", "cifar10", "edm", 5)


@pytest.mark.parametrize("words", [["reference", "digits"], ["import", "cifar10"]])
def test_a_folder_is_no_output(words, tmp_path):
    with pytest.raises(SystemExit, match="--output: .* is a folder: name a file in it"):
        main([*words, f"--output={tmp_path}"])


def test_a_root_of_a_name_too_long_is_one_line(tmp_path):
    for dataset in ("fashion_mnist", "folder"):
        with pytest.raises(SystemExit, match="File name too long"):
            main(["reference", dataset, "--extractor=digits", f"--root={'x' * 300}"])


def test_foreign_statistics_of_no_dataset(tmp_path, home):
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(SystemExit, match="invalid choice: 'nope'"):
        main(["import", "nope", "--file", f"{tmp_path}/a.npz", "--source", "edm", "--n", "5"])


def test_missing_inception_weights_say_what_to_fetch(home):
    with pytest.raises(MissingReference) as caught:
        load_extractor("inception")
    message = str(caught.value)
    assert INCEPTION_URL in message and str(home / "weights") in message
    assert "\n" not in message


class Trap:
    """A pickle that would create a file if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("any_weights", [False, True])
def test_a_file_that_is_not_the_known_one_is_never_executed(tmp_path, any_weights):
    torch.save({"x": Trap(tmp_path / "executed")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth is not") as caught:
        load_extractor("inception", "cpu", tmp_path / "weights.pth", any_weights)
    assert not (tmp_path / "executed").exists() and "\n" not in str(caught.value)


def test_an_inception_file_of_another_layout_is_refused(tmp_path):
    torch.save({"x": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="not an Inception state dict"):
        load_extractor("inception", "cpu", tmp_path / "weights.pth", any_weights=True)


class Blank(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception with random weights."""

    def load_state_dict(self, *_):
        pass


@pytest.mark.slow
def test_a_folder_is_judged_by_an_inception_of_random_weights(tmp_path, monkeypatch, capsys):
    """The full path of large datasets: weight file, command line, .npz, features, FID."""
    torch.save({}, tmp_path / "empty.pth")
    torch.manual_seed(0)
    network = Blank("inception-v3-compat", ["2048"], str(tmp_path / "empty.pth"))
    torch.save(network.state_dict(), tmp_path / "random.pth")
    (tmp_path / "faces").mkdir()
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (33, 12, 12, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "faces" / f"{i:02}.png")
    words = ["folder", f"--root={tmp_path / 'faces'}", f"--weights={tmp_path / 'random.pth'}"]
    with pytest.raises(SystemExit, match="is not weights-inception"):
        main(["reference", *words])
    main(["reference", *words, "--any-weights", "--device=cpu", "--workers=2"])
    root = tmp_path / "faces"
    path = reference_path("folder", "inception_unverified", root)
    assert path.name.startswith("folder-faces-")
    assert f"reference: {path}" in capsys.readouterr().out

    extractor = load_extractor("inception", "cpu", tmp_path / "random.pth", any_weights=True)
    reference = load_reference("folder", extractor, root=root)
    result = list(extract_features(datasets.folder(root=root), extractor))
    assert reference.n == 33 and result[0].shape == (32, 2048)
    with pytest.warns(UserWarning, match="33 (samples|reference images) for 2048 features"):
        record = fid([Statistics.of(torch.cat(result))], reference)
    assert record["metric"].startswith("not FID")
    assert record["value"] == pytest.approx(0, abs=1e-2)


def test_kid_and_precision_recall(real):
    a, b = real[::2], real[1::2]
    alike, far = (kid(x, a, 20, 200) for x in (b, b + 3))
    assert abs(alike["value"]) < 0.05 * far["value"]
    same, away = (precision_recall(x, a) for x in (a, a + 100))
    assert same == {"precision": 1, "recall": 1, "neighbours": 3}
    assert away == {"precision": 0, "recall": 0, "neighbours": 3}


def test_features_are_kept_with_a_reference_and_read_again(extractor, tiny):
    with pytest.raises(MissingReference, match="--keep-features"):
        reference_features(tiny, extractor)
    main(["reference", tiny, "--extractor=digits", "--keep-features"])
    result = reference_features(tiny, extractor)
    want = extractor(datasets.digits().images[:100])
    torch.testing.assert_close(result.double(), want, rtol=1e-6, atol=1e-6)
    kept = features_path(tiny, "digits")
    assert [path.name for path in kept.parent.glob(".*")] == []


@pytest.fixture
def clothes(monkeypatch):
    """Few random images in the place of Fashion-MNIST's; a function that takes them away."""
    missing = []

    def load(part="all", root=None):
        if missing:
            raise datasets.MissingData("none here")
        generator = torch.Generator().manual_seed(len(part))
        images = torch.randint(256, (150, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return datasets.TensorImages(images)

    source = dataclasses.replace(datasets.DATASETS["fashion_mnist"], load=load)
    monkeypatch.setitem(datasets.DATASETS, "fashion_mnist", source)
    return lambda: missing.append(True)


def test_the_reference_of_clothes_comes_with_the_package(clothes, home, capsys):
    extractor = load_extractor("fashion")
    assert (extractor.name, extractor.dimension) == ("fashion", 128)
    found = load_reference("fashion_mnist", extractor)
    assert found.n == 60000 and found.split == "train"
    assert found.mean.abs().max() < 1e-3
    assert (found.covariance.diagonal() - 1).abs().max() < 1e-3
    assert torch.linalg.matrix_rank(found.covariance, hermitian=True) == 128
    path = reference_path("fashion_mnist", "fashion")
    assert path.parent == SHIPPED
    before = path.read_bytes()
    main(["reference", "fashion_mnist", "--extractor=fashion"])
    assert "shipped with the package" in capsys.readouterr().out and path.read_bytes() == before
    weights, statistics_, features = evaluation_hash("fashion_mnist", "fashion")
    assert weights == extractor.sha256 and statistics_ and features is None
    main(["reference", "fashion_mnist", "--extractor=fashion", "--keep-features"])
    assert features_path("fashion_mnist", "fashion").parent == home / "references"
    with pytest.raises(ReferenceMismatch, match="other features than those of the reference"):
        reference_features("fashion_mnist", extractor)  # of few random images
    assert evaluation_hash("fashion_mnist", "fashion")[2]
    assert evaluation_hash("fashion_mnist", "fashion", features=False)[2] is None


def test_the_test_images_of_clothes_have_a_reference_of_their_own(clothes, tmp_path):
    words = ["reference", "fashion_mnist", "--extractor=fashion", "--part=test"]
    main([*words, f"--output={tmp_path / 'test.npz'}"])
    made = Reference.load(tmp_path / "test.npz")
    assert (made.n, made.split) == (150, "test")
    with pytest.raises(SystemExit, match="--keep-features is for --part all"):
        main([*words, "--keep-features"])
    with pytest.raises(SystemExit, match="choose from 'all', 'test'"):
        main([*words[:3], "--part=tests"])
    with pytest.raises(SystemExit, match="no part 'test' of a dataset"):
        main(["reference", "digits", "--extractor=digits", "--part=test"])


def test_the_floor_of_clothes_is_measured_or_read(clothes, capsys):
    main(["floor", "fashion_mnist"])
    measured = json.loads(capsys.readouterr().out)
    assert measured["n"] == 150 and measured["value"] > 0 and measured["se"] is None
    assert measured["metric"] == "FID on fashion features, not Inception FID"
    clothes()
    with pytest.raises(SystemExit, match="none here"):
        main(["floor", "fashion_mnist", "--root=nowhere"])
    main(["floor", "fashion_mnist"])
    read = json.loads(capsys.readouterr().out)
    assert read["n"] == 10000 and 0 < read["value"] < 2
    assert read["metric"] == measured["metric"]
    with pytest.raises(SystemExit, match="invalid choice: 'cifar10'"):
        main(["floor", "cifar10"])


def test_the_floor_is_the_bias_of_two_halves():
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = split_half_fid(x, range(5))
    assert result["n"] == 2000 and result["n_perfect"] == 4000
    assert result["perfect"] == pytest.approx(result["value"] / 2)
    # |μ_a − μ_b|² ≈ D(1/n + 1/n), and a quarter of |Σ_a − Σ_b|² ≈ D(D+1)/4 · (1/n + 1/n)
    assert result["value"] == pytest.approx((8 + 8 * 9 / 4) * 2 / 2000, rel=0.25)


def test_nearest_neighbours():
    data = datasets.digits().images
    distance, index = nearest_neighbours(data[[5, 900]], data)
    assert index.tolist() == [5, 900] and distance.tolist() == [0, 0]
    one = torch.zeros(1, 1, 8, 8).byte()
    other = one.clone()
    other[0, 0, 3, 3], other[0, 0, 4, 4] = 255, 255
    distance, _ = nearest_neighbours(other, one)
    assert distance.item() == pytest.approx(2**0.5)
    with pytest.raises(TypeError, match="uint8"):
        nearest_neighbours(one.float(), one)


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        ([], "COMMAND"),
        (["refrence"], "choose from 'reference', 'import', 'floor'"),
        (["reference"], "required: DATASET"),
        (["reference", "cifar10", "--datset=cifar10"], "unrecognized arguments: --datset"),
        (["reference", "dataset=cifar10"], "choose from 'digits', 'fashion_mnist', 'cifar10'"),
        (["reference", "cifar10", "--workers=many"], "is not a whole number"),
        (["reference", "cifar10", "--batch-size=0"], "is not a whole number from 1"),
        (["reference", "cifr10", "--extractor=digits"], "invalid choice: 'cifr10'"),
        (["reference", "cifar10", "--extractor=digits"], "cifar10 is missing"),
        (["reference", "cifar10"], "no Inception weights"),
        (["reference", "cifar10", "--device=gpu"], "use auto, cpu, cuda or cuda:N"),
        (["import", "cifar10", "--file=x.npz", "--source=edm", "--n=5"], "x.npz"),
    ],
)
def test_the_command_line_names_the_cure(words, cure, home):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert cure in str(caught.value) and "\n" not in str(caught.value)
    assert {path.suffix for path in home.rglob("*") if path.is_file()} <= {".lock"}


def test_features_that_fill_fewer_dimensions_have_a_distance():
    """Ten directions of 64; a hundred images again and again; features that are never on."""
    numbers = np.random.default_rng(0)
    spread, few = numbers.standard_normal((10, 64)), numbers.standard_normal((100, 64))
    dead = np.arange(64) < 50

    def pairs():
        yield [numbers.standard_normal((5000, 10)) @ spread for _ in range(2)]
        yield [few[numbers.integers(0, 100, 5000)] for _ in range(2)]
        yield [numbers.standard_normal((5000, 64)) * dead for _ in range(2)]

    for pair in pairs():
        a, b = (Statistics.of(torch.from_numpy(x)) for x in pair)
        ours = statistics.frechet_distance(a, b)
        assert metrics.distance(a, b) == pytest.approx(ours, abs=1e-3)
        assert_both_ways_agree(a, b)
