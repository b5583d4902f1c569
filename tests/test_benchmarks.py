"""The benchmarks run, compare what is equal, and what is committed regenerates."""

import time

import pandas as pd
import pytest
import torch

from benchmarks import (
    end_to_end,
    frechet,
    layouts,
    measure,
    overhead,
    precision,
    run,
    shares,
    throughput,
)
from pndm.evaluation.features import load_extractor

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


def test_throughput_is_of_the_same_images(monkeypatch):
    monkeypatch.setattr(throughput, "SIZES", {"cpu": ("digits_linear", 2, 4, True)})
    monkeypatch.setattr(throughput, "inception", lambda device: load_extractor("digits", device))
    rows = list(throughput.measure(CPU, 1))
    assert [row.case.rpartition(", ")[2] for row in rows] == [
        "without features",
        "with features",
    ] * 2
    for plain, whole in zip(rows[::2], rows[1::2], strict=True):
        assert 0 < plain.ours < whole.ours and 0 < plain.other < whole.other
    assert rows[0].difference <= 2 / 255 and 0 < rows[2].difference < 0.2
    assert "images/s; autocast" in rows[2].note


@torch.no_grad()
def test_a_norm_that_keeps_the_layout_is_the_same_norm():
    x = (3 * torch.randn(2, 16, 5, 6) + 1).to(memory_format=torch.channels_last)
    norm = layouts.LayoutNorm(4, 16, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    expected = torch.nn.functional.group_norm(x, 4, norm.weight, norm.bias, 1e-6)
    assert measure.difference(norm(x), expected) < 1e-5
    assert norm(x).is_contiguous(memory_format=torch.channels_last)
    half = norm.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16 and measure.difference(half.float(), expected) < 0.02


def test_layouts_are_compared_in_every_precision(monkeypatch):
    networks = {"cpu": {"digits_linear": (2, ("fp32", "bf16"), ("off",))}}
    monkeypatch.setattr(layouts, "NETWORKS", networks)
    rows = list(layouts.measure(CPU, 1))
    assert [row.case.split(", ")[2] for row in rows] == ["fp32", "fp32", "bf16", "bf16", "bf16"]
    assert all(row.difference < 1e-5 for row in rows[:2])
    assert all(row.difference < 0.05 for row in rows[2:])


def test_no_row_is_begun_after_the_time_is_over(monkeypatch, tmp_path, capsys):
    """What was measured is kept, in the folder that was asked for."""

    def endless(device, pairs):
        while True:
            time.sleep(0.05)
            yield measure.Row("a", "b", "s", 1.0, 2.0, 2.0, "1×", True, None, "a note")

    def never(device, pairs):
        raise AssertionError
        yield

    monkeypatch.setattr(run, "PARTS", {"one": endless, "two": never})
    monkeypatch.setattr(
        "sys.argv", ["run", "--device=cpu", "--seconds=0.2", f"--results={tmp_path / 'new'}"]
    )
    run.main()
    said = capsys.readouterr().out
    assert "one: no time for more within 0.2 s" in said and "two: no time for it" in said
    assert (pd.read_csv(tmp_path / "new" / "cpu.csv")["command"] == "one").all()


def test_what_has_no_aim_does_not_hide_what_has_met_one(tmp_path):
    path = tmp_path / "cpu.csv"
    for part, met in (("overhead", None), ("end_to_end", True), ("shares", False)):
        run.keep([measure.Row("a", "b", "s", 1.0, 2.0, 2.0, "1×", met, None, "n")], part, path)
    assert list(run.formatted(pd.read_csv(path))["met"]) == ["–", "yes", "no"]


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["overheads"], "error: parts are overhead, end_to_end"),
        (["--pair", "x"], "error: "),
        (["--device", "gpu"], "error: device=gpu"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, said, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run", *words])
    with pytest.raises(SystemExit, match=said):
        run.main()


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
