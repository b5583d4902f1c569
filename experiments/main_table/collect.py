"""Collect the records of any number of runs into the tables, the figures and the README.

    python -m experiments.main_table.collect                      # outputs/ into results/
    python -m experiments.main_table.collect outputs elsewhere    # several folders of runs
    python -m experiments.main_table.collect --readme             # from results/ alone

A dataset's rows are replaced if the folders hold records of it, and otherwise remain as committed;
with --keep, cells that are not in the folders remain too. Records of different code, extractors or
references are never mixed: the command lists them and asks for a choice. Records of another number
of images, and duplicates, are omitted and listed by name. W&B is never read.
"""

import dataclasses
import json
import operator
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import schedules, trajectory_error
from experiments.main_table import claims, fid_by_steps, floors, jackknife, readme, tables
from experiments.main_table.cells import (
    COLUMNS,
    DATASETS,
    JACKKNIFE,
    KEY,
    Results,
    command,
)
from experiments.main_table.figure import write_fid_by_steps, write_overview
from experiments.main_table.tables import summary
from experiments.pages import FOLDER
from pndm._errors import (
    MissingFile,
    Parser,
    PndmError,
    one_line,
    one_line_exit,
    prepare_console,
)
from pndm._files import read_json
from pndm.config.compose import CONF, compose_runs
from pndm.config.schema import ConfigError, Run, from_yaml
from pndm.evaluation.features import load_extractor
from pndm.evaluation.reference import load_reference
from pndm.evaluation.statistics import extrapolate
from pndm.runs import measure
from pndm.runs.job import Job
from pndm.runs.record import SCHEMA
from pndm.runs.run import run_experiment

DEPENDENT_PAGES = (schedules, trajectory_error)
"""Pages of other measurements that also show cells of the main table."""

MUST_MATCH = ("extractor", "reference", "precision", "code")
"""The columns that must agree in all rows of a dataset's table."""


@dataclass
class Records:
    """The records for the tables, and notes on omitted ones, with the reason."""

    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def read(folders: Sequence[Path]) -> Records:
    """Read the records of all runs in some folders, one row each."""
    rows, notes = [], []
    for root in folders:
        if not root.is_dir():
            raise MissingFile(f"{root}: there is no such folder of runs")
        for status in sorted(root.glob("*/*/*/status.json")):
            record = read_json(status.with_name("metrics.json"))
            record = record or read_json(status)
            try:
                rows.append({**row(record or {}), "folder": str(status.parent)})
            except (KeyError, TypeError, AttributeError, ValueError):
                notes.append(f"not a record of this version: {status.parent}")
    if not rows:
        notes.append(f"no records in {', '.join(map(str, folders))}")
    columns = [*COLUMNS, "folder", "key", "started"]
    return Records(pd.DataFrame(rows, columns=columns), notes)


def row(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a record to a row; `options` lists only settings that differ from the defaults."""
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']} is not of this version")
    adaptive = record["solver"] == "pf"
    row = {
        **{name: record[name] for name in ("dataset", "schedule", "solver", "convention")},
        **{name: operator.index(record[name]) for name in ("samples", "seed")},
        **{name: record[name] for name in ("precision", "model", "code")},
        "grid": record["grid"] if isinstance(record["grid"], str) else json.dumps(record["grid"]),
        "options": " ".join(options(record["settings"])),
        "steps": None if adaptive else operator.index(record["steps"]),
        "weights": record["weights"]["sha256"][:12],
        "commit": record["commit"],
        "status": {"running": "unfinished"}.get(record["status"], record["status"]),
        "error": record.get("error"),
        **{name: record[name] for name in ("key", "started")},
    }
    if record["status"] == "complete":
        fid, seconds = record["fid"], record["seconds"]
        intervals = {name: fid.get(name) for name in ("bias_corrected", "se", "low", "high")}
        row |= {
            "nfe": number(record["nfe"]),
            "fid": None if fid["value"] is None else number(fid["value"]),
            **{name: value and round(value, 6) for name, value in intervals.items()},
            "extractor": fid["extractor"],
            "reference": fid["reference"],
            "seconds": round(seconds["sampling"] + seconds["features"], 1),
            "error": fid.get("reason"),
        }
    return row


def run(words: Sequence[str], experiment: str) -> tuple[Run, dict[str, Any]]:
    """Run a cell by the arguments of run.py; its configuration and its row."""
    (cfg,) = compose_runs(words)
    path = run_experiment(cfg, experiment)
    record = json.loads(path.read_text(encoding="utf-8"))
    return cfg, {**row(record), "folder": str(path.parent)}


def number(value: Any) -> float:
    """Return a number unchanged; TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def options(settings: dict[str, Any]) -> Iterator[str]:
    """The overrides of solver and schedule that differ from their YAML."""
    for group in ("solver", "schedule"):
        chosen = settings[group]
        path = CONF / group / f"{chosen['name']}.yaml"
        usual = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        for name, value in chosen.items():
            if name != "timesteps" and value != as_number(usual.get(name)):
                yield f"{group}.{name}={value}"


def as_number(value: Any) -> Any:
    """Format a value for an override; YAML would parse 1e-5 as a string."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def choose(reading: Records, codes: Sequence[str] = (), samples: int | None = None) -> Records:
    """Select the rows of one table; ConfigError if the user must choose."""
    frame, notes = reading.frame, list(reading.notes)
    if codes:
        frame = leave_out(frame, frame["code"].isin(codes), notes, "of other code")
    frame = leave_out(frame, frame["solver"] != "learned", notes, "of a learned plan")
    expected = frame["dataset"].map(lambda name: samples or fid_by_steps.SAMPLES.get(name, 50_000))
    frame = leave_out(frame, frame["samples"] == expected, notes, "of another number of images")
    require_one_kind(frame, codes)
    rank = frame["status"].map({"complete": 2, "failed": 1}).fillna(0)
    frame = frame.assign(rank=rank).sort_values(["rank", "started"])
    frame = leave_out(frame, ~frame.duplicated(KEY, keep="last"), notes, "doubled by newer")
    return Records(frame.drop(columns="rank"), notes)


def require_one_kind(frame: pd.DataFrame, codes: Sequence[str]) -> None:
    """Raise ConfigError if a dataset's rows cannot share a table; several `codes` if named."""
    for dataset, rows in frame[frame["fid"].notna()].groupby("dataset"):
        for name in MUST_MATCH:
            counts = rows[name].value_counts()
            if len(counts) > 1 and not (name == "code" and set(counts.index) <= set(codes)):
                listing = ", ".join(f"{value} ({count})" for value, count in counts.items())
                cure = "--code NAME takes one" if name == "code" else "collect them apart"
                raise ConfigError(f"{dataset} has runs of several {name}: {listing}: {cure}")
        for model, files in rows.groupby("model")["weights"].unique().items():
            if len(files) > 1:
                raise ConfigError(f"{model} has runs of several weights: {list(files)}")


def leave_out(frame: pd.DataFrame, keep: pd.Series, notes: list[str], reason: str) -> pd.DataFrame:
    """Filter the rows by a mask, with a note on the omitted ones."""
    notes.extend(f"left out, {reason}: {folder}" for folder in frame["folder"][~keep])
    return frame[keep]


@dataclass(frozen=True)
class FinishedJob(Job):
    """A finished job: its shards are found by the record's key, whatever the current code."""

    key: str = field()


def leave_one_out(row: pd.Series) -> dict[str, Any] | str:
    """A run's leave-one-block-out distances, or the reason why there are none."""
    folder = Path(row["folder"])
    try:
        cfg = from_yaml(folder / "config.yaml")
        outputs = str(folder.parent.parent.parent)
        job = FinishedJob(dataclasses.replace(cfg, outputs=outputs), row["key"])
        extractor = load_extractor(row["extractor"])
        if not job.features(extractor).path(0).exists():
            return f"no feature shards: {folder}"
        reference = load_reference(row["dataset"], extractor)
        blocks = measure.blocks(job, extractor)
        value, without = jackknife.distances(blocks, reference)
        infinity = extrapolate(blocks, reference)
    except (PndmError, OSError, KeyError, TypeError) as error:
        return f"no feature shards: {folder} ({one_line(error)})"
    if abs(value - row["fid"]) > 1e-4 * abs(row["fid"]) + 1e-6:
        return f"its shards give {value:.6g}, its record {row['fid']:.6g}: {folder}"
    numbers = dict(zip(jackknife.WITHOUT, (round(w, 8) for w in without), strict=True))
    measured = {"fid": round(value, 8), "infinity": round(infinity, 6)}
    return {**row[[*KEY, "samples"]], **measured, **numbers}


def collect(reading: Records, old: Results, keep: bool = False) -> tuple[Results, list[str]]:
    """Return the results with the records' datasets replaced, and the notes.

    With `keep`, cells without a record remain.
    """
    frame = reading.frame
    notes, loo = list(reading.notes), []
    for _, measured in frame[frame["fid"].notna()].iterrows():
        distances = leave_one_out(measured)
        (notes if isinstance(distances, str) else loo).append(distances)
    cells = frame.assign(command=[command(row) for _, row in frame.iterrows()])
    new = Results(cells[COLUMNS], pd.DataFrame(loo, columns=JACKKNIFE), floors.table(cells))
    return old.replace(new, keep), notes


def write(results: Results, folder: Path, page: Path | None) -> list[Path]:
    """Write everything generated from the results: claims, tables, figures and the README."""
    written = [claims.write(results, folder)]
    for dataset in DATASETS:
        written += tables.write(results, dataset, folder)
        written += write_fid_by_steps(results, dataset, folder)
    written += write_overview(results, folder)
    for module in DEPENDENT_PAGES:
        measured = folder / f"{module.__name__.rpartition('.')[2]}.csv"
        if measured.exists():
            written += module.write(pd.read_csv(measured), folder, results)
    if page is not None:
        text = readme.update(page.read_text(encoding="utf-8"), results, folder)
        page.write_text(text, encoding="utf-8")
        written.append(page)
    return written


def main(words: Sequence[str]) -> None:
    """Run the command line; SystemExit with one line on an error."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="*", type=Path, help="folders of runs (outputs)")
    parser.add_argument("--readme", action="store_true", help="read no runs, only results/")
    parser.add_argument("--keep", action="store_true", help="keep the other cells of a dataset")
    parser.add_argument("--code", action="append", default=[], help="take runs of this code")
    parser.add_argument("--samples", type=int, help="take runs of so many images")
    parser.add_argument("--results", type=Path, help="another folder than experiments/results")
    options = parser.parse_args(words)
    folder = options.results or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    page = readme.PAGE if options.results is None else None
    with one_line_exit("the same command begins again"):
        results, notes = Results.load(folder), []
        if not options.readme:
            reading = choose(
                read(options.outputs or [Path("outputs")]), options.code, options.samples
            )
            results, notes = collect(reading, results, options.keep)
            require_one_kind(results.cells, options.code)
            results.save(folder)
        written = write(results, folder, page)
    print("\n".join(notes))
    for dataset in DATASETS:
        print(summary(results, dataset))
    print("written: " + ", ".join(path.name for path in written))


if __name__ == "__main__":
    prepare_console()
    main(sys.argv[1:])
