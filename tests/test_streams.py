"""Features extracted beside sampling: on a card, and the same order of events on a processor."""

import threading

import numpy as np
import pytest
import torch

from pndm import config, evaluation, experiment, worker
from pndm.streams import Coming, beside

SMALL = ["samples=20", "steps=3", "wandb.mode=disabled", "progress=false"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")


def job(folder, device="cpu"):
    (cfg,) = config.cells([*SMALL, f"outputs={folder}", f"device={device}"])
    return worker.Job(cfg)


def work(job):
    extractor = evaluation.extractor("digits", job.device)
    worker.work(job, extractor, lambda evaluated: None)
    return np.concatenate(
        [job.features(extractor).load(shard)["features"] for shard in range(job.shards)]
    )


@pytest.fixture
def overlapping(monkeypatch):
    """Shards of eight images, and a processor that is treated as a card is."""
    monkeypatch.setattr(worker, "SHARD", 8)
    monkeypatch.setattr(worker, "overlaps", lambda device: True)


@pytest.fixture
def saved(monkeypatch):
    """What is kept, in its order: ("images", 0), …"""
    order = []
    save = worker.Store.save

    def noted(store, index, arrays):
        order.append((store.folder.name.split("-")[0], index))
        save(store, index, arrays)

    monkeypatch.setattr(worker.Store, "save", noted)
    return order


def test_on_a_processor_features_are_kept_before_the_next_images(tmp_path, monkeypatch, saved):
    monkeypatch.setattr(worker, "SHARD", 8)
    work(job(tmp_path))
    assert saved == [(what, i) for i in range(3) for what in ("images", "digits")]


def test_beside_the_next_images_features_are_the_same(tmp_path, monkeypatch, overlapping, saved):
    found = work(job(tmp_path / "overlapping"))
    assert [i for what, i in saved if what == "images"] == [0, 1, 2]
    assert saved.index(("digits", 0)) > saved.index(("images", 1))
    assert saved[-1] == ("digits", 2) and len(saved) == 6
    monkeypatch.setattr(worker, "overlaps", lambda device: False)
    np.testing.assert_array_equal(found, work(job(tmp_path / "one after the other")))


def test_features_are_kept_when_the_next_images_fail(tmp_path, monkeypatch, overlapping, saved):
    make = worker.make_images

    def fails(job, shard, progress):
        if shard == 1:
            raise FloatingPointError("no images")
        make(job, shard, progress)

    monkeypatch.setattr(worker, "make_images", fails)
    with pytest.raises(FloatingPointError):
        work(job(tmp_path))
    assert saved == [("images", 0), ("digits", 0)]


def test_several_at_once_neither_wait_for_each_other_nor_repeat(tmp_path, overlapping, saved):
    threads = [threading.Thread(target=work, args=[job(tmp_path)], daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(saved) == [(what, i) for what in ("digits", "images") for i in range(3)]


@needs_cuda
def test_a_card_hands_over_what_it_has_made_while_it_goes_on():
    x = torch.randn(2048, 2048, device="cuda", dtype=torch.float64)
    coming = Coming(x @ x)
    later = x
    for _ in range(20):
        later = later @ x / 50
    (found,) = coming.wait()
    torch.testing.assert_close(found, x.cpu() @ x.cpu())
    with beside(x.device):
        following = Coming(later.sum())
    assert following.wait()[0].item() == pytest.approx(later.sum().item())


@needs_cuda
def test_a_card_extracts_the_same_features_beside_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "SHARD", 8)
    found = work(job(tmp_path / "overlapping", "cuda"))
    monkeypatch.setattr(worker, "overlaps", lambda device: False)
    np.testing.assert_allclose(found, work(job(tmp_path / "after", "cuda")), rtol=1e-6)


def test_a_run_counts_the_time_of_overlapping_features(tmp_path, overlapping):
    import json

    record = json.loads(experiment.run(job(tmp_path).cfg).read_text())
    assert record["fid"]["value"] > 0 and record["seconds"]["features"] > 0
