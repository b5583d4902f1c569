"""Learned plans: their file, what is refused, and sampling with them."""

import copy
import json
import math

import pytest
import torch

import pndm
from pndm import learned, plans
from pndm._errors import InputError
from pndm.learned import Learned
from pndm.models.analytic import Point

LINEAR = pndm.schedules.linear()
POINT = Point(LINEAR, torch.tensor([0.3, -0.4]))


def table(solver=None, steps=4, **more):
    plan = pndm.plan(solver or pndm.solvers.ipndm(), LINEAR, steps, "quadratic")
    content = plans.to_learned(plan, "test-4").to_json()
    content["network"] = {"name": "net", "sha256": "ab" * 32}
    content["schedule"] = {"name": "linear", "convention": "aligned"}
    content["fitted"] = {"start": {"solver": "ipndm"}}
    return content | more


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "plan.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("name", ["ddim", "ipndm", "deis", "lms"])
def test_a_compiled_plan_survives_its_file(name, tmp_path):
    """The images of the numbers in the file are those of the solver, to 1e-12."""
    start = pndm.plan(pndm.solvers.SOLVERS[name](), LINEAR, 6, "quadratic")
    plan = plans.of_learned(plans.to_learned(start, name))
    plans.save(plan, tmp_path / "plan.json")
    again = plans.load(tmp_path / "plan.json")
    assert (again.rows, again.times) == (plan.rows, start.times)
    assert again.learned.digest == plan.learned.digest
    x_T = pndm.initial_noise(range(3), (2,)).double()
    x = pndm.sample(POINT, x_T, schedule=LINEAR, plan=again)
    assert (x - pndm.execute.execute(start, POINT, x_T)).abs().max() < 1e-12


def test_it_prints_as_the_table_that_it_is(write):
    title, origin, head, *rows = str(plans.load(write(table()))).splitlines()
    assert title == "learned: 4 steps, 4 evaluations"
    assert origin == ("test-4, fitted to net (name=linear convention=aligned) from solver=ipndm")
    assert head.split() == ["row", "time", "keep", "base", "point", "reaches"]
    assert len(rows) == 4 and rows[0].startswith("0    800")


def changed(change):
    content = copy.deepcopy(table())
    change(content)
    return content


BAD = {
    "missing row": (lambda c: c["rows"].pop(), "4 steps between 5 nodes need as many rows, not 3"),
    "missing weight": (lambda c: c["rows"][2]["weights"].pop(), "row 2 has 2 weights, but must"),
    "NaN": (lambda c: c["rows"][1].update(weights=[math.nan, 1]), "is not a finite number"),
    "infinite time": (lambda c: c["rows"][1].update(time=math.inf), "is not a finite number"),
    "ascending": (lambda c: c["nodes"].reverse(), "must descend"),
    "below 0": (lambda c: c["nodes"][3].update(time=-0.5), "only the last may be below 0"),
    "no noise": (lambda c: c["rows"][0].update(time=-0.1), "where there is no noise"),
    "rising ᾱ": (lambda c: c["nodes"][1].update(alpha_bar=0.9999), "must not fall"),
    "text": (lambda c: c["rows"][0].update(time="800"), "'800' is no number"),
    "no nodes": (lambda c: c.pop("nodes"), "'nodes' is missing"),
    "newer": (lambda c: c.update(schema=2), "schema 2 is of a newer version of pndm: update pndm"),
    "no schema": (lambda c: c.pop("schema"), "this is no plan"),
    "prediction": (lambda c: c.update(prediction="score"), "no prediction 'score'"),
    "rows": (lambda c: c.update(rows=3), "this is no plan"),
    "huge": (lambda c: c["rows"][0].update(time=10**400), "this is no plan"),
    "hash": (lambda c: c["network"].update(sha256=5), "the network's sha256 is no text"),
    "start": (lambda c: c["fitted"].update(start="x"), "this is no plan"),
    "no start": (lambda c: c["fitted"].update(start=""), "this is no plan"),
    "pairs": (lambda c: c["fitted"].update(start=[["a", "b"]]), "this is no plan"),
    "NaN in words": (lambda c: c["fitted"].update(loss=math.nan), "this is no plan"),
    "heavy": (lambda c: c["rows"][0].update(weights=[-1e308]), "a weight is -1e\\+308: they are"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(case, write):
    change, said = BAD[case]
    with pytest.raises(InputError, match=said) as error:
        plans.load(write(changed(change)))
    assert "\n" not in str(error.value) and "plan.json" in str(error.value)


def test_a_file_that_is_none_is_one_line(write, tmp_path):
    for text in ("", "[]", "{", "3", "\x00", "[" * 100_000):
        with pytest.raises(InputError, match="plan.json: "):
            plans.load(write(text))
    with pytest.raises(InputError, match="no such file, and shipped plans are digits_"):
        plans.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="plan=xxx.*: File name too long"):
        plans.load("x" * 300)
    with pytest.raises(InputError, match="was not learned"):
        plans.save(pndm.plan(pndm.solvers.ddim(), LINEAR, 5), tmp_path / "x.json")


def test_another_schedule_or_prediction_is_refused(write):
    plan = plans.load(write(table()))
    x_T = pndm.initial_noise([0], (2,))
    others = [pndm.schedules.cosine(), pndm.schedules.linear(convention="released")]
    others += [pndm.schedules.linear(beta_end=0.0201), pndm.schedules.linear(timesteps=500)]
    for schedule in others:
        with pytest.raises(InputError, match="fitted on another schedule .name=linear, conv"):
            pndm.sample(POINT, x_T, schedule=schedule, plan=plan)
    with pytest.raises(InputError, match="networks that predict noise, not velocity"):
        pndm.sample(POINT, x_T, schedule=LINEAR, plan=plan, prediction="velocity")


def test_a_time_that_no_network_of_the_schedule_knows_is_refused(write):
    plan = plans.load(write(changed(lambda c: c["rows"][0].update(time=1000.0))))
    with pytest.raises(InputError, match="gives the network the time 1000, but it knows .* 999"):
        pndm.sample(POINT, pndm.initial_noise([0], (2,)), schedule=LINEAR, plan=plan)


def test_another_network_is_refused_unless_overridden(write):
    class Network:
        def __init__(self, sha256):
            self.provenance = {"sha256": sha256}

        def __call__(self, x, t):
            return POINT(x, t)

    path, x_T = write(table()), pndm.initial_noise([0], (2,))
    x = pndm.sample(Network("ab" * 32), x_T, schedule=LINEAR, plan=path)
    with pytest.raises(InputError, match="fitted to another network, net .*override=true"):
        pndm.sample(Network("cd" * 32), x_T, schedule=LINEAR, plan=path)
    with pytest.warns(UserWarning, match="fitted to another network"):
        plan = plans.load(path, override=True)
        y = pndm.sample(Network("cd" * 32), x_T, schedule=LINEAR, plan=plan)
    assert torch.equal(x, y)


def test_a_plan_stands_alone(write):
    plan, x_T = plans.load(write(table())), pndm.initial_noise([0], (2,))
    for more in ({"solver": pndm.solvers.ddim()}, {"steps": 4}, {"grid": "karras"}):
        with pytest.raises(InputError, match="leave them out"):
            pndm.sample(POINT, x_T, schedule=LINEAR, plan=plan, **more)
    with pytest.raises(InputError, match="or a plan"):
        pndm.sample(POINT, x_T, schedule=LINEAR, steps=5)
    solution = pndm.solve(POINT, x_T, schedule=LINEAR, plan=plan)
    assert solution.nfe.tolist() == [4]
    any_plan = pndm.plan(pndm.solvers.heun(), LINEAR, 3)
    with pytest.raises(InputError, match="compiled for another schedule than cosine"):
        pndm.sample(POINT, x_T, schedule=pndm.schedules.cosine(), plan=any_plan)
    x = pndm.sample(POINT, x_T, schedule=LINEAR, plan=any_plan)
    same = pndm.sample(POINT, x_T, solver=pndm.solvers.heun(), schedule=LINEAR, steps=3)
    assert torch.equal(x, same)


def test_the_digest_is_of_the_numbers(write):
    first = Learned.from_json(table())
    renamed = Learned.from_json(table(name="other", fitted={}))
    assert first.digest == renamed.digest and hash(first) != hash(renamed)
    other = Learned.from_json(changed(lambda c: c["rows"][0].update(weights=[1.0000001])))
    assert other.digest != first.digest


@pytest.mark.parametrize("name", learned.names())
def test_shipped_plans_are_for_their_networks(name):
    network, _, nfe = name.rpartition("-")
    plan = plans.load(name)
    assert (plan.learned.name, plan.nfe) == (name, int(nfe))
    schedule = pndm.schedules.SCHEDULES[network.rpartition("_")[2]]()
    plan.learned.require_schedule(schedule, "noise")
    weights = pndm.models.registry.find(network).require()
    plan.learned.require_network(pndm.models.locations.weights_sha256(weights))


def test_the_rest_of_a_plan_begins_without_history():
    """Image-to-image pipelines begin at a later evaluation, from where Adams-Bashforth goes on."""
    plan = plans.of_learned(Learned.from_json(table(steps=8)))
    rest = plans.remainder(plan, 2, LINEAR, "noise")
    assert rest.nfe == 6 and rest.nodes[0].time == plan.nodes[2].time
