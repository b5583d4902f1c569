"""The benchmarks run, compare what is equal, and what is committed regenerates."""

import pandas as pd
import pytest
import torch

from benchmarks import end_to_end, frechet, measure, overhead, precision, run, shares

CPU = torch.device("cpu")


def test_committed_results_regenerate():
    table = pd.read_csv(run.RESULTS / "cpu.csv")
    assert set(table["part"]) >= {"overhead", "end to end", "precision", "Fréchet", "start"}
    assert run.page(table) == (run.RESULTS / "cpu.md").read_text()


def test_pairs_alternate_after_a_warm_up():
    calls = []
    own, other, ratio = measure.alternate(lambda: calls.append(0), lambda: calls.append(1), 3)
    assert calls == [0, 1] * 4 and min(own, other, ratio) > 0


def test_solvers_beside_schedulers(monkeypatch):
    monkeypatch.setattr(overhead, "SHAPES", ((1, 1, 2, 2),))
    rows = list(overhead.measure(CPU, 1))
    assert len(rows) == 3 and all(row.ours > 0 and row.other > 0 for row in rows)


@pytest.mark.slow
def test_both_networks_give_the_same_images(monkeypatch):
    monkeypatch.setattr(end_to_end, "BATCHES", {"cpu": {"digits_linear": (2, 3)}})
    rows = list(end_to_end.measure(CPU, 1))
    assert [row.case for row in rows] == [f"digits_linear, batch {n}, fp32, eager" for n in (2, 3)]
    assert all(row.difference < 1e-4 for row in rows)
    (largest,) = end_to_end.measure(CPU, 1, precision="bf16", which=end_to_end.MIDDLE)
    assert largest.case.endswith("batch 3, bf16, eager") and 0 < largest.difference < 0.1


def test_both_distances_are_the_same(monkeypatch):
    monkeypatch.setattr(frechet, "IMAGES", 300)
    monkeypatch.setattr(frechet, "DIMENSION", 16)
    rows = list(frechet.measure(CPU, 1))
    assert len(rows) == 4 and all(row.difference < 1e-6 for row in rows)


def test_shares_make_the_whole(monkeypatch):
    monkeypatch.setattr(shares, "BATCHES", {"cpu": {"digits_linear": (2, 3)}})
    rows = list(shares.measure(CPU, 1))
    assert sum(row.ours for row in rows) == pytest.approx(100)
    largest = next(row for row in rows if row.case == "digits_linear, batch 3: convolutions")
    assert largest.ours > 10 and "with nothing but them" in largest.note


@pytest.mark.slow
def test_precisions_tell_their_fid(monkeypatch):
    monkeypatch.setattr(precision, "PRECISIONS", {"cpu": ("bf16",)})
    monkeypatch.setattr(precision, "fid", lambda name, device: 0.5)
    (row,) = precision.measure(CPU, 1)
    assert "FID 0.5000, of fp32 0.5000" in row.note
    assert 0 < float(row.note.split()[1].rstrip(";")) < 0.1 and row.difference > 0


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", "overheads"])
    with pytest.raises(SystemExit):
        run.main()
    assert "parts are overhead, end_to_end" in capsys.readouterr().err


def test_a_kernel_is_not_counted_next_to_the_operation_that_launched_it():
    from types import SimpleNamespace

    from torch.autograd import DeviceType

    from benchmarks.shares import by_kind

    def event(key, device, time):
        return SimpleNamespace(
            key=key, device_type=device, self_device_time_total=time, self_cpu_time_total=1.0
        )

    events = [
        event("aten::cudnn_convolution", DeviceType.CPU, 60.0),
        event("sm80_xmma_fprop_implicit_gemm_tf32", DeviceType.CUDA, 60.0),
        event("aten::addmm", DeviceType.CPU, 30.0),
        event("ampere_sgemm_128x64_tn", DeviceType.CUDA, 30.0),
    ]
    kinds = {"convolutions": 60.0, "matrix products and attention": 30.0}
    assert by_kind(events, is_cuda=True) == kinds
    assert by_kind(events[::2], is_cuda=False) == dict.fromkeys(kinds, 1.0)
