"""Step time: seconds per step and per evaluation, by method (the paper's time table).

    python -m experiments.step_time

Digits on this machine, the methods in turn, medians of several rounds. Seconds per step are not
comparable between methods, since the first steps of some take several evaluations: the paper's
ratio of F-PNDM to DDIM at 50 steps, 1.16, is close to that of the evaluations, 59/50 = 1.18.
"""

import time
from pathlib import Path

import pandas as pd
import torch

import pndm
from experiments.pages import FOLDER, NAMES, markdown
from pndm._errors import prepare_console
from pndm._provenance import hardware
from pndm.solvers import SOLVERS

METHODS = ("ddim", "ddpm", "s_pndm", "plms", "fon", "fon_released", "prk")
STEPS, BATCH, ROUNDS = 50, 64, 7

PAPER = {"ddim": (0.337, 1.237), "plms": (0.391, 1.433)}
"""Seconds per step on Cifar10 and CelebA, as the paper prints them."""


def measure(rounds: int = ROUNDS) -> pd.DataFrame:
    """Measure the median seconds of a run of each method, in alternation."""
    network, schedule = pndm.models.load("digits_linear"), pndm.schedules.linear()
    x_T = pndm.initial_noise(range(BATCH), (1, 8, 8))
    noise = pndm.noise.step_noise(range(BATCH), (1, 8, 8))
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(rounds + 1):  # the first one warms up
        for name, times in seconds.items():
            began = time.perf_counter()
            pndm.sample(
                network,
                x_T,
                solver=SOLVERS[name](),
                schedule=schedule,
                steps=STEPS,
                noise=noise,
            )
            times.append(time.perf_counter() - began)
    rows = []
    for name, times in seconds.items():
        nfe, total = SOLVERS[name]().nfe(STEPS), pd.Series(times[1:]).median()
        row = {"solver": name, "steps": STEPS, "nfe": nfe, "images": BATCH, "seconds": total}
        rows.append({**row, "per_step": total / STEPS, "per_nfe": total / nfe})
    threads = torch.get_num_threads()
    return pd.DataFrame(rows).assign(machine=hardware(), threads=threads)


def page(table: pd.DataFrame) -> str:
    """The time table, in Markdown."""
    base = table.set_index("solver").loc["ddim"]
    rows = []
    for _, row in table.iterrows():
        cifar10, celeba = PAPER.get(row["solver"], (None, None))
        rows.append(
            {
                "method": NAMES[row["solver"]],
                "NFE": str(row["nfe"]),
                "ms per step": f"{1e3 * row['per_step']:.2f}",
                "÷ DDIM": f"{row['per_step'] / base['per_step']:.2f}",
                "NFE ÷ DDIM's": f"{row['nfe'] / base['nfe']:.2f}",
                "ms per NFE": f"{1e3 * row['per_nfe']:.2f}",
                "paper, Cifar10": f"{cifar10} s" if cifar10 else "–",
                "paper, CelebA": f"{celeba} s" if celeba else "–",
            }
        )
    first = table.iloc[0]
    return (
        f"# Cost of a step\n\nDigits, {first['images']} images at once, {first['steps']} steps, "
        f"{first['machine']}, threads: {first['threads']}; medians of {ROUNDS} rounds in turn. "
        "The times of stochastic methods include drawing the noise.\n\n"
        f"    python -m experiments.step_time\n\n{markdown(pd.DataFrame(rows))}\n"
    )


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write step_time.md from step_time.csv."""
    path = folder / "step_time.md"
    path.write_text(page(table), encoding="utf-8")
    return [path]


def main() -> None:
    """Measure, write step_time.csv and the page."""
    measure().to_csv(FOLDER / "step_time.csv", index=False, float_format="%.6g")
    write(pd.read_csv(FOLDER / "step_time.csv"), FOLDER)


if __name__ == "__main__":
    prepare_console()
    main()
