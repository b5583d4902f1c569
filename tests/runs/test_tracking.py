"""The mirror on W&B: what it holds, and that nothing which happens to it ends a run."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from commands import complete, finish, start

from pndm.config.compose import compose_runs
from pndm.runs.run import run_experiment
from pndm.runs.tracking import WandbLogger

SMALL = ["steps=2", "progress=false"]
KEY = "0" * 40
"""A key that no account has."""


def online(folder, server, **environment):
    """A run mirrored on a server that never does its part; what it printed, and its record."""
    address = f"http://127.0.0.1:{server}"
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address, **environment}
    process = start([*SMALL, "samples=50", "wandb.mode=online"], folder, **environment)
    out, err = process.communicate(timeout=240)  # wandb itself would wait for minutes, or for ever
    assert process.returncode == 0 and "the run goes on" in err, err
    (record,) = complete(folder).values()
    assert KEY not in json.dumps(record)
    return out, record


# What it holds


def test_a_mirror_holds_configuration_metrics_pictures_and_a_table_by_seed(tmp_path):
    images = [np.full((3, 8, 8), 10 * i, dtype=np.uint8) for i in range(4)]
    with WandbLogger(
        "offline", tmp_path, name="cell", group="sweep-7", config={"steps": 50}
    ) as mirror:
        mirror.log({"fid": 1.25})
        mirror.table("images", range(2**32, 2**32 + 3), iter(images))
        sync = mirror.sync
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert sync == f"wandb sync {os.path.relpath(run)}"
    (table,) = run.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["seed", "image"]
    assert [seed for seed, _ in content["data"]] == [2**32, 2**32 + 1, 2**32 + 2]
    (mirrored,) = run.glob("*.wandb")
    parts = [p.encode() for p in ("cell", "sweep-7", "steps", "fid", "table-file", table.name)]
    for _ in range(100):  # wandb's own process may write a little later
        missing = [part for part in parts if part not in mirrored.read_bytes()]
        if not missing:
            break
        time.sleep(0.3)
    assert not missing
    assert len(list(tmp_path.rglob("staging/tmp*"))) >= 3  # the images, for `wandb sync`


def test_a_run_mirrors_a_table_of_its_first_images(tmp_path):
    words = ["samples=70", "seed=2", "wandb.mode=offline", "device=cpu", f"outputs={tmp_path}"]
    (cfg,) = compose_runs([*SMALL, *words])
    run_experiment(cfg)
    (table,) = tmp_path.rglob("*.table.json")
    seeds = [seed for seed, _ in json.loads(table.read_text())["data"]]
    assert seeds == [2 * 2**32 + i for i in range(64)]


# No network, no account


def unplugged(loopback):
    """A command that runs another one without a network; skips where that is not permitted."""
    alone = ["unshare", "--net", "sh", "-c", f'ip link set lo {loopback} && exec "$@"', "sh"]
    try:
        subprocess.run([*alone, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a namespace without a network needs unshare, ip and root")
    return alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loopback", "mode", "what"),
    [
        ("down", "offline", ["-m", "solver=ddim,plms", "samples=50"]),
        ("down", "online", ["-m", "solver=ddim,plms", "samples=50", "launcher=joblib"]),
        ("up", "offline", ["processes=2", "samples=1000"]),
    ],
)
def test_without_a_network_and_an_account_everything_is_made(tmp_path, loopback, mode, what):
    nobody = {"HOME": str(tmp_path / "home"), "WANDB_MODE": mode, "HF_HUB_OFFLINE": "0"}
    arguments = [*SMALL, f"wandb.mode={mode}", *what]
    out = finish(start(arguments, tmp_path, within=unplugged(loopback), **nobody))
    found = complete(tmp_path).values()
    assert len(found) == (2 if "-m" in what else 1) and "a worker failed" not in out
    assert all(record["fid"]["value"] for record in found)
    assert all(record["wandb"].startswith("wandb sync ") for record in found)


@pytest.mark.slow
def test_a_refused_connection_costs_seconds(tmp_path):
    out, record = online(tmp_path, 9)
    assert record["wandb"] in out


@pytest.mark.slow
def test_a_server_that_never_answers_costs_seconds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        out, record = online(tmp_path, silent.getsockname()[1])
    assert record["wandb"] in out


class Dying(BaseHTTPRequestHandler):
    """A W&B that lets a run begin and answers nothing afterwards."""

    def do_POST(self):
        query = self.rfile.read(int(self.headers["Content-Length"]))
        if b"upsertBucket" not in query:
            return
        project = {"id": "1", "name": "pndm", "entity": {"id": "1", "name": "someone"}}
        bucket = {"id": "1", "name": "run", "displayName": "run", "project": project}
        content = {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_a_server_that_dies_later_costs_seconds(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        online(tmp_path, server.server_port, WANDB_FINISH_TIMEOUT="5")
        server.shutdown()


class Broken:
    """A W&B that raises wherever it is touched."""

    def __getattr__(self, name):
        raise RuntimeError(f"{name} is out of order")


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_mirror_that_breaks_is_a_warning(tmp_path, monkeypatch, mode):
    monkeypatch.setitem(sys.modules, "wandb", Broken())
    with pytest.warns(UserWarning, match="the run goes on"), WandbLogger(mode, tmp_path) as mirror:
        mirror.log({"fid": 1.0})
        mirror.image("samples", tmp_path / "none.png")
        mirror.table("images", range(1), [np.zeros((1, 8, 8), dtype=np.uint8)])
    assert mirror.sync is None


def test_a_mirror_that_breaks_later_is_a_warning_too(tmp_path):
    with WandbLogger("disabled", tmp_path) as mirror:
        mirror.run = Broken()
        with pytest.warns(UserWarning, match="the run goes on"):
            mirror.log({"fid": 1.0})
        with pytest.warns(UserWarning, match="the run goes on"):
            mirror.table("images", range(1), [np.zeros((1, 8, 8), dtype=np.uint8)])
        mirror.run = None


def test_no_mirror_touches_no_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with WandbLogger("disabled", tmp_path) as mirror:
        mirror.log({"fid": 1.0})
    assert not list(tmp_path.iterdir())
