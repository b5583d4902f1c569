"""The cells of a sweep, one after the other or elsewhere: one table, and nothing made twice."""

import os
import signal

import pytest
from commands import complete, finish, start, times, wait_for

SWEEP = [
    *("-m", "schedule=linear,cosine", "solver=ddim,s_pndm,plms", "steps=2,3"),
    *("samples=40", "progress=false", "wandb.mode=disabled"),
]
LAUNCHERS = ["basic", "joblib", "slurm_local"]


def table(folder):
    """What must not depend on who made a cell: where its record lies, and its numbers."""
    return {path: (r["nfe"], r["fid"], r["key"]) for path, r in complete(folder).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(SWEEP, folder))
    return table(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_killed_and_repeated_anywhere_gives_the_same_table(
    undisturbed, tmp_path, launcher
):
    assert len(undisturbed) == 12
    sweep = [*SWEEP, f"launcher={launcher}"]
    process = start(sweep, tmp_path)
    wait_for(lambda: complete(tmp_path), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    cells, shards = times(tmp_path, "metrics.json"), times(tmp_path, "*.shard")
    assert 0 < len(cells) < 12

    out = finish(start(sweep, tmp_path))
    assert table(tmp_path) == undisturbed
    assert cells.items() <= times(tmp_path, "metrics.json").items()  # none was made again
    assert shards.items() <= times(tmp_path, "*.shard").items()
    rows = [line for line in out.splitlines() if line.startswith("│") and "complete" in line]
    assert len(rows) == 12
