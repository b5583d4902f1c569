"""The paper's main table: FID of every method at 5 to 1000 steps, on two variance schedules.

    python -m experiments.main_table.fid_by_steps             # digits, all that is missing
    python -m experiments.main_table.fid_by_steps dataset=cifar10 only=plan  # what it will take
    python -m experiments.main_table.fid_by_steps schedule=linear seed=0 wandb.mode=disabled

The cells are not a Cartesian product, so they are declared here as data;
`conf/experiment/fid_by_steps.yaml` has the part that is one. Complete cells are reused,
interrupted ones continue, and a failed cell is printed and recorded but does not stop the others.
Any other key=value goes to every run, as in run.py. The abstract's cells come first, then the
cheap ones.
"""

import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from experiments.arguments import command, split
from pndm._errors import MissingFile, PndmError, one_line
from pndm.config.build import build_solver
from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError, Run

STEPS = (5, 10, 20, 50, 100, 250, 1000)
TO_250, TO_100, TO_50 = STEPS[:-1], STEPS[:-2], STEPS[:-3]
SCHEDULES = ("linear", "cosine")
ALL_DIGITS = 1797
SAMPLES = {"digits": ALL_DIGITS, "fashion_mnist": 500}
"""Images per cell, by dataset; where it is not here, those of conf/dataset."""


class Line(NamedTuple):
    """One line of the table: a method, on a grid, at some numbers of steps.

    `options` are overrides beyond the method's name. An adaptive method has no number of steps.
    """

    solver: str
    steps: tuple[int | None, ...]
    grid: str = "leading"
    options: str = ""


class Cell(NamedTuple):
    """The identity of a measurement of a dataset."""

    schedule: str
    solver: str
    grid: str
    options: str
    steps: int | None
    seed: int


LINES = (
    Line("ddim", STEPS),
    Line("ddim", TO_250, "quadratic"),
    Line("s_pndm", STEPS),
    Line("plms", STEPS),
    Line("fon", TO_250),
    Line("fon_released", TO_100),
    Line("prk", TO_100),
    Line("ddpm", STEPS),
    Line("pf", (None,)),
    *(
        Line("pf", (None,), options=f"solver.rtol={tolerance} solver.atol={tolerance}")
        for tolerance in ("0.0001", "0.001", "0.01")
    ),
)
"""Seed set 0. Slow, uninformative cells are omitted: the Runge-Kutta method and the
released FON above 100 steps, and at 1000 all but the methods that are compared there."""

REPEATED = (
    Line("ddim", (*TO_50, 1000)),
    Line("s_pndm", TO_50),
    Line("plms", TO_50),
    Line("fon", TO_50),
)
"""Seed sets 1 and 2, for the variation between seed sets."""


EULER = "solver.order=1 solver.transfer=classical"
"""The options of `multistep` that make it Euler's method, the classical twin of DDIM."""

CLASSICAL_2 = "solver.order=2 solver.transfer=classical solver.starter=improved_euler"
"""Those that make it the classical twin of S-PNDM."""

FASHION = (
    Line("ddim", STEPS),
    Line("s_pndm", TO_250),
    Line("plms", STEPS),
    Line("fon", TO_250),
    Line("multistep", TO_250, options=EULER),
    Line("multistep", TO_250, options=CLASSICAL_2),
    Line("prk", (5, 10, 20)),
    Line("ddpm", TO_250),
    Line("pf", (None,)),
)
"""Fashion-MNIST, seed set 0: each pseudo method beside its classical twin."""

FASHION_REPEATED = (Line("ddim", (50, 250, 1000)), Line("plms", (50, 250)))
"""Its seed set 1: the cells of the abstract."""

TABLES = {"fashion_mnist": {0: FASHION, 1: FASHION_REPEATED}}
"""The lines of tables that differ from the digits', by seed set."""


class Claim(NamedTuple):
    """A claim of the paper's abstract: the first method is no worse than the second."""

    solver: str
    steps: int
    other: str
    other_steps: int

    def __str__(self) -> str:
        return f"{self.solver}@{self.steps} − {self.other}@{self.other_steps}"


CLAIMS = (
    Claim("plms", 50, "ddim", 1000),
    Claim("plms", 50, "ddim", 250),
    Claim("plms", 250, "ddim", 250),
)
CLAIMED = {pair for c in CLAIMS for pair in ((c.solver, c.steps), (c.other, c.other_steps))}


def lines(seed: int, dataset: str = "digits") -> tuple[Line, ...]:
    """The lines of a dataset's table measured with a set of seeds."""
    if dataset in TABLES:
        return TABLES[dataset].get(seed, ())
    return LINES if seed == 0 else REPEATED


def cells(
    schedules: Sequence[str] = SCHEDULES, seeds: Sequence[int] = (0,), dataset: str = "digits"
) -> list[Cell]:
    """All cells of a dataset's table, line by line."""
    return [
        Cell(schedule, line.solver, line.grid, line.options, steps, seed)
        for seed in seeds
        for schedule in schedules
        for line in lines(seed, dataset)
        for steps in line.steps
    ]


@dataclass
class Task:
    """A cell, its run, its evaluations per image, and whether it is complete."""

    cell: Cell
    cfg: Run
    nfe: int
    done: bool

    @property
    def rank(self) -> tuple[int, bool, int]:
        """The order of work: seed set 0 first, the abstract's cells before all others, by cost."""
        claimed = (self.cell.solver, self.cell.steps) in CLAIMED and self.cell.grid == "leading"
        return self.cell.seed, not claimed, self.nfe

    @property
    def evaluations(self) -> int:
        return self.nfe * self.cfg.samples


PF_NFE = 150
"""An estimate, for the plan only, of the evaluations of the adaptive method."""


def tasks(
    dataset: str, schedules: Sequence[str], seeds: Sequence[int], more: Sequence[str] = ()
) -> list[Task]:
    """The table's cells as validated runs, in order of execution."""
    from pndm.cost import has_weights
    from pndm.runs.job import Job
    from pndm.runs.record import is_complete

    tasks = []
    for seed in seeds:
        for schedule in schedules:
            for line in lines(seed, dataset):
                runs = compose_runs(overrides(dataset, schedule, seed, line, more), multirun=True)
                for steps, cfg in zip(line.steps, runs, strict=True):
                    cell = Cell(schedule, line.solver, line.grid, line.options, steps, seed)
                    nfe = build_solver(cfg.solver).nfe(cfg.steps) or PF_NFE
                    done = has_weights(cfg) and is_complete(Job(cfg))
                    tasks.append(Task(cell, cfg, nfe, done))
    return sorted(tasks, key=lambda task: task.rank)


def overrides(
    dataset: str, schedule: str, seed: int, line: Line, more: Sequence[str] = ()
) -> list[str]:
    """The run.py arguments of a line of the table."""
    steps = ",".join(str(s) for s in line.steps if s is not None)
    words = [f"dataset={dataset}", f"schedule={schedule}", f"solver={line.solver}"]
    words += [f"grid={line.grid}", f"seed={seed}", *line.options.split()]
    words += [f"steps={steps}"] if steps else []
    words += [f"samples={SAMPLES[dataset]}"] if dataset in SAMPLES else []
    keys = {word.partition("=")[0] for word in more}
    return [word for word in words if word.partition("=")[0] not in keys] + list(more)


def show_plan(todo: Sequence[Task], seconds: float) -> None:
    """Print the plan: cells, evaluations and, at `seconds` each, the time."""
    table = Table("schedule", "solver", "grid", "cells", "missing", "NFE", "minutes")
    groups: dict[tuple[str, str, str], list[Task]] = {}
    for task in todo:
        groups.setdefault((task.cell.schedule, task.cell.solver, task.cell.grid), []).append(task)
    for group, members in sorted(groups.items()):
        missing = [task for task in members if not task.done]
        row = [*group, str(len(members)), str(len(missing))]
        table.add_row(*row, str(sum(task.nfe for task in missing)), minutes(missing, seconds))
    Console().print(table)
    missing = [task for task in todo if not task.done]
    print(f"{len(missing)} of {len(todo)} cells are missing: {minutes(missing, seconds)} minutes")


def minutes(tasks: Sequence[Task], seconds: float) -> str:
    """The duration of some cells, given the seconds of an evaluation of one image."""
    return f"{sum(task.evaluations for task in tasks) * seconds / 60:.1f}"


def run_missing(todo: Sequence[Task]) -> list[str]:
    """Run the missing cells; return one line for each failure."""
    from pndm.runs.run import run_experiment

    failed, missing = [], [task for task in todo if not task.done]
    for i, task in enumerate(missing, 1):
        cell = task.cell
        name = f"{cell.schedule} {cell.solver} {cell.grid} {cell.options} {cell.steps or ''}"
        name = " ".join(f"{name} seed {cell.seed}".split())
        print(f"[{i}/{len(missing)}] {name}", flush=True)
        try:
            print(f"record: {run_experiment(task.cfg, 'fid_by_steps')}", flush=True)
        except PndmError as error:
            failed.append(f"{name}: {one_line(error)}")
            print(f"error: {failed[-1]}", file=sys.stderr, flush=True)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {one_line(error)}")
            traceback.print_exc()
    return failed


def parse(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split the words into own options and those of run.py."""
    own, more = split(words, {"dataset": "digits", "schedule": "", "seed": "0,1,2", "only": ""})
    if own["only"] not in ("", "plan"):
        raise ConfigError(f"only={own['only']}: it can be only=plan, which runs nothing")
    if not all(seed.isdecimal() for seed in own["seed"].split(",")):
        raise ConfigError(f"seed={own['seed']}: give whole numbers, as in seed=0,1,2")
    fixed = ("solver", "steps", "grid", "convention", "experiment")
    for word in more:
        if word.partition("=")[0].split(".")[0] in fixed:
            raise ConfigError(f"{word}: the cells are this table's; run.py -m runs others")
    return own, more


def selection(own: dict[str, str]) -> tuple[tuple[str, ...], list[int]]:
    """The schedules on the command line, empty if none are given, and the seed sets.

    ConfigError if the table has nothing of these seed sets.
    """
    schedules = tuple(own["schedule"].split(",")) if own["schedule"] else ()
    seeds = [int(seed) for seed in own["seed"].split(",")]
    if not any(lines(seed, own["dataset"]) for seed in seeds):
        raise ConfigError(
            f"seed={own['seed']}: the table of {own['dataset']} has no such seed set"
        )
    return schedules, seeds


def first_cell(dataset: str, schedule: str, seed: int, more: Sequence[str]) -> list[Run]:
    """One validated cell of a schedule, representative of the others."""
    line = LINES[0]._replace(steps=(1,))
    return compose_runs(overrides(dataset, schedule, seed, line, more))


def get_ready(dataset: str, schedules: Sequence[str], seed: int, more: Sequence[str]) -> None:
    """Fetch and compute what the table needs; PndmError without weights, or without a reference.

    A table without FIDs has to be asked for by fid=off.
    """
    from pndm.runs.job import Job
    from pndm.runs.measure import Skipped, load_evaluator
    from pndm.runs.prepare import prepare

    runs = [run for schedule in schedules for run in first_cell(dataset, schedule, seed, more)]
    reasons = prepare(runs)
    for run in runs:
        job = Job(run)
        job.load_weights()
        evaluator = load_evaluator(run, job.device)
        if isinstance(evaluator, Skipped) and run.fid != "off":
            reason = (reasons or [evaluator.reason])[0]
            raise MissingFile(f"{reason}; fid=off makes a table of images alone")


def trained_schedules(dataset: str) -> Iterator[str]:
    """The table's schedules for which a dataset has weights."""
    (cfg,) = compose_runs([f"dataset={dataset}"])
    return (name for name in SCHEDULES if name in cfg.dataset.models)


@command
def main(words: Sequence[str]) -> None:
    """Print the plan, then run its missing cells."""
    from pndm.cost import load_runner, time_network

    own, more = parse(words)
    schedules, seeds = selection(own)
    schedules = schedules or tuple(trained_schedules(own["dataset"]))
    if own["only"] != "plan":
        get_ready(own["dataset"], schedules, seeds[0], more)
    todo = tasks(own["dataset"], schedules, seeds, more)
    first = todo[0].cfg
    show_plan(todo, time_network(first, load_runner(first), seconds=2).seconds)
    if own["only"] == "plan":
        return
    failed = run_missing(todo)
    if failed:
        sys.exit("\n".join([f"{len(failed)} cells failed:", *failed]))
    print("python -m experiments.main_table.collect makes the tables")


if __name__ == "__main__":
    main(sys.argv[1:])
