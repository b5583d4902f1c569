"""Runs with a learned plan: the record, the identity, and what is refused."""

import json

import numpy as np
import pytest
import torch

import pndm
from pndm import plans
from pndm._errors import InputError
from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError
from pndm.data import images
from pndm.runs import identity
from pndm.runs.job import Job
from pndm.runs.run import run_experiment

SMALL = ["samples=4", "fid=off", "wandb.mode=disabled", "progress=false", "device=cpu"]
WEIGHTS = pndm.models.registry.find("digits_linear").require()


@pytest.fixture
def write(tmp_path):
    """Write the plan of DEIS in four steps, with changes, as if it had been learned."""

    def write(file="plan.json", **changes):
        start = pndm.plan(pndm.solvers.deis(3), pndm.schedules.linear(), 4, "quadratic")
        content = plans.to_learned(start, "mine").to_json()
        sha256 = pndm.models.locations.weights_sha256(WEIGHTS)
        content["network"] = {"name": "digits_linear", "sha256": sha256}
        content |= changes
        path = tmp_path / file
        path.write_text(json.dumps(content))
        return path

    return write


def compose(tmp_path, path, *more):
    (cfg,) = compose_runs([*SMALL, f"outputs={tmp_path}/outputs", f"plan={path}", *more])
    return cfg


def test_a_run_with_a_plan(write, tmp_path):
    cfg = compose(tmp_path, write(), "save_images=npz")
    path = run_experiment(cfg)
    record = json.loads(path.read_text())
    assert (record["solver"], record["steps"], record["nfe"]) == ("learned", 4, 4)
    plan = plans.load(write())
    assert record["plan"] == {"name": "mine", "sha256": plan.learned.digest}
    assert path.parent.name.startswith("learned-4-")
    with np.load(path.parent / "images.npz") as file:
        stored = file["images"]
    x = pndm.sample(
        pndm.models.load("digits_linear"),
        pndm.initial_noise(range(4), (1, 8, 8)),
        schedule=pndm.schedules.linear(),
        plan=plan,
    )
    assert np.array_equal(stored, images.to_uint8(x).permute(0, 2, 3, 1).numpy())


def test_a_plan_that_changes_during_a_run_is_refused(write, tmp_path):
    cfg = compose(tmp_path, write())
    rows = json.loads(write().read_text())["rows"]
    rows[0]["weights"] = [1.1]
    write(rows=rows)
    with pytest.raises(ConfigError, match="has changed since the run began"):
        run_experiment(cfg)


def test_the_numbers_of_a_plan_name_a_run_and_its_file_does_not(write, tmp_path):
    key = Job(compose(tmp_path, write())).key
    assert Job(compose(tmp_path, write("other.json", name="other"))).key == key
    rows = json.loads(write().read_text())["rows"]
    rows[0]["weights"] = [1.0000001]
    assert Job(compose(tmp_path, write("third.json", rows=rows))).key != key


def test_runs_without_a_plan_keep_their_settings(monkeypatch):
    """What is hashed of a run without plan= is what was hashed before there were plans."""
    hashed = []
    monkeypatch.setattr(identity, "_digest", lambda *content: hashed.append(content) or "0")
    (cfg,) = compose_runs(["solver=ddim"])
    identity.image_key(cfg, "weights")
    settings = hashed[-1][0]
    assert settings["solver"] == {"name": "ddim", "eta": 0.0}
    assert not {"plan", "override"} & set(settings)


def test_what_does_not_fit_is_refused(write, tmp_path):
    path = write()
    for word, said in {
        "schedule=cosine": "fitted on another schedule",
        "convention=released": "fitted on another schedule",
        "steps=4": "takes the place of solver, steps and grid: leave steps out",
        "solver=ddim": "leave solver out",
        "solver.order=3": "leave|there is no solver.order",
        "seed=1000000": "seeds are for fitting plans",
    }.items():
        with pytest.raises(ConfigError, match=said):
            compose(tmp_path, path, word)
    with pytest.raises(ConfigError, match="no such file, and shipped plans are"):
        compose(tmp_path, tmp_path / "none.json")
    with pytest.raises(ConfigError, match="override=true is for a plan=FILE"):
        compose_runs(["override=true"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="bad.json: "):
        compose(tmp_path, tmp_path / "bad.json")


def test_another_network_is_refused_unless_overridden(write, tmp_path):
    path = write(network={"name": "another", "sha256": "ab" * 32})
    with pytest.raises(InputError, match="fitted to another network, another .*override=true"):
        Job(compose(tmp_path, path)).load_weights()
    with pytest.warns(UserWarning, match="fitted to another network"):
        record = run_experiment(compose(tmp_path, path, "override=true"))
    assert json.loads(record.read_text())["plan"]["name"] == "mine"


def test_a_shipped_plan_is_known_by_its_name(tmp_path):
    cfg = compose(tmp_path, "digits_linear-5")
    assert (cfg.steps, cfg.solver["name"], len(cfg.grid)) == (5, "learned", 6)
    assert torch.tensor(cfg.grid).diff().max() < 0
