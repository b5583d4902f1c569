"""Statistics files of other codes: read as what they are, or one line with what to do."""

import pickle

import numpy as np
import pytest
import torch

from pndm._errors import InputError, PndmError
from pndm.evaluation.reference import import_reference


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(50, 6))


def load(path, n=50, source="ttur"):
    return import_reference(path, "cifar10", source, n)


@pytest.mark.parametrize("names", [("mu", "sigma"), ("m", "s"), ("mean", "cov")])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "longdouble"])
def test_moments_by_any_name_and_type(tmp_path, features, names, dtype):
    mean, covariance = features.mean(0), np.cov(features.T)
    moments = dict(zip(names, (mean.astype(dtype), covariance.astype(dtype)), strict=True))
    np.savez(tmp_path / "a.npz", **moments, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    found = load(tmp_path / "a.npz", source="clean_fid")
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    assert np.abs(found.covariance.numpy() - covariance).max() < 2e-3


@pytest.mark.parametrize("shape", [(50, 6), (50, 6, 1, 1)])
@pytest.mark.parametrize("name", ["pool_3", "features"])
def test_features_become_their_moments(tmp_path, features, name, shape):
    np.savez(tmp_path / "a.npz", **{name: features.reshape(shape).astype("f4")})
    found = load(tmp_path / "a.npz", source="score_sde")
    assert np.abs(found.covariance.numpy() - np.cov(features.T)).max() < 1e-5
    with pytest.raises(InputError, match="features of 50 images, not of n=49"):
        load(tmp_path / "a.npz", n=49)


def test_pickles_are_refused_with_a_cure(tmp_path, features):
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"fid": {"mu": 1}}))
    torch.save({"mu": 1}, tmp_path / "fidelity.pt")
    for name in ("edm.pkl", "fidelity.pt"):
        with pytest.raises(InputError, match="pickle.*numpy.savez"):
            load(tmp_path / name)
    np.save(tmp_path / "one.npy", features)
    with pytest.raises(InputError, match="is one array"):
        load(tmp_path / "one.npy")


def test_what_is_there_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"no mu and sigma but arr_0 \[2, 4, 4, 3\]"):
        load(tmp_path / "a.npz")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(PndmError):
            load(path)
