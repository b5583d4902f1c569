"""The command `python run.py`, installed as `pndm`: compose, run, record."""

import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pndm._errors import FileError, PndmError, one_line, one_line_exit, prepare_console
from pndm._files import make_folder
from pndm.config.compose import (
    compose_runs,
    current_cell,
    from_hydra,
    launch,
    readable_words,
    runs_elsewhere,
)
from pndm.config.schema import ConfigError, Run
from pndm.config.validate import require_machine
from pndm.runs import interrupts

if TYPE_CHECKING:
    from omegaconf import DictConfig

SWEEP = "PNDM_SWEEP"
"""Environment variable that tells the jobs of a sweep, in whatever process, its name."""

VISIBLE_GPUS = "PNDM_VISIBLE_GPUS"
"""Environment variable that keeps CUDA_VISIBLE_DEVICES, which launcher=slurm_local empties."""

SWEEPS = ("-m", "--multirun")
SHOWS = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-i", "--info")
FOLDERS = ("--config-dir", "-cd")
"""Hydra's flags: those that begin a sweep, those that show something and run nothing, and those
that name a folder of further options."""

cells: list[Run] = []
"""The runs of this command, in the order of their numbers; none in other processes' jobs."""


failed: list[int] = []
"""The numbers of the runs that failed in this process, whether or not a record is there."""


def job(cfg: "DictConfig") -> None:
    """One cell; its failure is shown and recorded, and does not stop a sweep."""
    sweep, cell = os.environ.get(SWEEP), current_cell()
    if sweep:
        print(" ".join(cell.overrides), flush=True)
    try:
        if cell.launcher == "slurm_local":
            restore_visible_gpus()
        run = cells[cell.number] if cells else from_hydra(cfg)
        require_machine(run)
        from pndm.runs.prepare import prepare
        from pndm.runs.processes import assign_gpu
        from pndm.runs.run import run_experiment

        if not cells:  # on another machine than the command's
            prepare([run])
        record = run_experiment(assign_gpu(run, cell.launcher, cell.number), sweep)
        print(f"record: {record}", flush=True)
    except PndmError as error:
        failed.append(cell.number)
        print(f"error: {one_line(error)}", file=sys.stderr)
    except Exception:
        failed.append(cell.number)
        traceback.print_exc()


def restore_visible_gpus() -> None:
    """Let this process see the GPUs that the command saw."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if VISIBLE_GPUS in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[VISIBLE_GPUS]


def main() -> None:
    """Refuse a wrong command line before anything is written, then let Hydra run the cells."""
    prepare_console()
    interrupts.listen()
    with one_line_exit():
        sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """The exit status of the command with these arguments."""
    failed.clear()
    flags, folder, overrides = split(arguments)
    sweep = any(flag in SWEEPS for flag in flags)
    shows = [flag for flag in flags if flag not in SWEEPS]
    overrides = readable_words(overrides)
    if "--resolve" in shows and not {"-c", "--cfg", "-h", "--help"} & set(shows):
        raise ConfigError("--resolve goes with --cfg job")
    if shows:
        overrides = [word for word in overrides if "=" in word]
    if overrides or not shows:
        cells[:] = compose_runs(overrides, sweep, folder)
    if shows:
        launch(job)
        return 0
    from pndm.runs.job import Job
    from pndm.runs.prepare import prepare
    from pndm.runs.record import summarize

    only = any(run.fetch == "only" for run in cells)
    reasons = prepare(cells, compute=only or not runs_elsewhere(overrides))
    for run in cells:  # refuse damaged weights before the first cell
        Job(run).load_weights()
    if only:
        print("everything is here" if not reasons else "the rest is here", flush=True)
        return 1 if reasons else 0
    for outputs in {run.outputs for run in cells}:
        make_folder(Path(outputs))
        if len(cells) > 1 and not os.access(outputs, os.W_OK):
            raise FileError(f"outputs={outputs} cannot be written to")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        os.environ[VISIBLE_GPUS] = os.environ["CUDA_VISIBLE_DEVICES"]
    if len(cells) > 1:
        os.environ[SWEEP] = time.strftime("%Y%m%d-%H%M%S")
    # Hydra wants its flags first
    options = [] if folder is None else ["--config-dir", str(Path(folder).resolve())]
    sys.argv[1:] = [*["-m"] * sweep, *options, *overrides]
    launch(job)
    interrupts.check()
    return 1 if summarize(cells) or failed else 0


def split(arguments: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Flags, the folder of further options, and overrides; ConfigError for an unknown flag."""
    flags: list[str] = []
    folder: str | None = None
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in FOLDERS:
            folder = value if equals else next(words, "")
            if not folder:
                raise ConfigError(f"{flag}: name a folder, as in {flag} my_configs")
        elif not word.startswith("-"):
            overrides.append(word)
        elif word in (*SWEEPS, *SHOWS):
            flags.append(word)
        else:
            raise ConfigError(f"{word}: settings are key=value, sweeps begin with -m")
    return flags, folder, overrides
