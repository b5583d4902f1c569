"""Compose, run, record: python run.py solver=plms steps=50 dataset=digits."""

import io
import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pndm import config, interrupts

SWEEP = "PNDM_SWEEP"
"""Environment variable that tells the jobs of a sweep, in whatever process, its name."""

CARDS = "PNDM_CARDS"
"""Environment variable that keeps CUDA_VISIBLE_DEVICES, which launcher=slurm_local empties."""

SWEEPS = ("-m", "--multirun")
SHOWS = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-i", "--info")
"""Hydra's flags: those that begin a sweep, and those that show something and run nothing."""


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(cfg: DictConfig) -> None:
    """One cell; its failure is told and recorded, and does not stop a sweep."""
    from pndm import experiment

    sweep, hydra_cfg = os.environ.get(SWEEP), HydraConfig.get()
    if sweep:
        print(" ".join(hydra_cfg.overrides.task), flush=True)
    try:
        number = hydra_cfg.job.get("num", 0)  # which there is in a sweep only
        run = deal(config.from_hydra(cfg), hydra_cfg.runtime.choices.launcher, number)
        print(f"record: {experiment.run(run, sweep)}", flush=True)
    except config.EXPECTED as error:
        print(f"error: {config.one_line(error)}", file=sys.stderr)


def deal(run: config.Run, launcher: str, number: int) -> config.Run:
    """A run on the card whose turn it is, where cells or tasks share those of a machine."""
    if launcher == "slurm_local":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if CARDS in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[CARDS]
    turns = dict.fromkeys(("joblib", "slurm_local"), number)
    turn = turns.get(launcher, os.environ.get("SLURM_LOCALID"))
    if turn is None or config.processes(run) > 1:  # workers take turns themselves
        return run
    return config.deal(run, int(turn))


def main() -> None:
    """Refuse a wrong command line before anything is written, then let Hydra run the cells."""
    arguments = sys.argv[1:]
    sweep = any(a in SWEEPS for a in arguments)
    flags = [a for a in arguments if a.startswith("-") and a not in SWEEPS]
    shows = any(a in SHOWS for a in flags)
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or not shows)]
    for stream in (sys.stdout, sys.stderr):  # a terminal without our letters ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    interrupts.listen()
    try:
        for flag in flags:
            if flag not in SHOWS:
                raise config.ConfigError(f"{flag}: settings are key=value, sweeps begin with -m")
        runs = config.cells(overrides, sweep) if overrides or not shows else []
        if shows:
            return job()
        config.require_weights(runs)
        for outputs in {run.outputs for run in runs}:
            Path(outputs).mkdir(parents=True, exist_ok=True)
            if len(runs) > 1 and not os.access(outputs, os.W_OK):
                raise config.ConfigError(f"outputs={outputs} cannot be written to")
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            os.environ[CARDS] = os.environ["CUDA_VISIBLE_DEVICES"]
        if len(runs) > 1:
            os.environ[SWEEP] = time.strftime("%Y%m%d-%H%M%S")
        sys.argv[1:] = ["-m"] * sweep + overrides  # Hydra wants its flags first
        job()
        interrupts.check()
        from pndm import experiment

        sys.exit(1 if experiment.summarize(runs) else 0)
    except config.EXPECTED as error:
        sys.exit(f"error: {config.one_line(error)}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
