"""Compose, run, record: python run.py solver=plms steps=50 dataset=digits."""

import sys

import hydra
from omegaconf import DictConfig

from pndm import config

FAILED: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(cfg: DictConfig) -> None:
    """One cell: a failure is reported and remembered, and does not stop a sweep."""
    from pndm import experiment

    try:
        record = experiment.run(config.from_hydra(cfg))
        print(f"record: {record}")
    except config.EXPECTED as error:
        FAILED.append(config.one_line(error))
        print(f"error: {FAILED[-1]}", file=sys.stderr)


def main() -> None:
    """Refuse a wrong command line before anything is written, then let Hydra run the cells."""
    arguments = sys.argv[1:]
    sweep = [a for a in arguments if a in ("-m", "--multirun")]
    overrides = [a for a in arguments if a not in sweep]
    try:
        if not any(a.startswith("-") for a in overrides):  # --help, --cfg …: Hydra's
            config.cells(overrides, multirun=bool(sweep))
        job()
    except config.ConfigError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
