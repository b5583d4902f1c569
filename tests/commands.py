"""`python run.py` as a subprocess, and the files that it writes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np

from pndm.config.compose import CONF

ROOT = CONF.parent


def start(arguments, folder, within=(), **environment):
    """Start a run on one thread, in its own process group; `within` is a command that wraps it."""
    command = [*within, sys.executable, ROOT / "run.py", "device=cpu", *arguments]
    return subprocess.Popen(
        [*command, f"outputs={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # which a shell's background jobs, and so what they start, would ignore
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finish(process):
    """The output of a run that must succeed."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out


def wait_for(event, process, seconds=300):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not event():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def times(folder, pattern):
    """The files that match a pattern, with their modification times."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def complete(folder):
    """The complete records in a folder, by relative path."""
    actual = {str(p.relative_to(folder)): json.loads(p.read_text()) for p in paths(folder)}
    return {path: record for path, record in actual.items() if record["status"] == "complete"}


def paths(folder):
    return sorted(folder.rglob("metrics.json"))


def result(folder):
    """The images and the FID of the only run in a folder."""
    (path,) = paths(folder)
    record = json.loads(path.read_text())
    assert record["status"] == "complete"
    with np.load(path.with_name("images.npz")) as file:
        return file["images"], record["fid"]


def assert_same(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
