"""`python run.py` as a process of its own, and the files that it writes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pndm.config.compose import CONF
from pndm.runs import command

ROOT = CONF.parent

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["commands", "pndm.runs.run", "pndm.runs.prepare", "torch_fidelity", "sklearn.datasets"]
)


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


class Fork:
    """A run in a fork of a process that has imported all that runs do, which takes seconds.

    Like that of `start` it is on one thread, in its own process group; `before` is code that is
    executed first.
    """

    def __init__(self, arguments, folder, before="", **environment):
        self.folder = tempfile.TemporaryDirectory()
        self.texts = [Path(self.folder.name, name) for name in ("out", "err")]
        words = ["run.py", "device=cpu", *arguments, f"outputs={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = FORKS.Process(target=run, args=(words, before, environment, self.texts))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        """Its exit status, minus the signal that ended it, or None."""
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def wait(self, seconds=None):
        """Wait until it ends, or for a time."""
        self.process.join(seconds)

    def communicate(self, timeout=None):
        """What it has printed to stdout and stderr when it ends."""
        self.wait(timeout)
        assert self.returncode is not None, "it does not end"
        return tuple(path.read_text() for path in self.texts)


def run(words, before, environment, texts):
    """The process of a `Fork`."""
    os.setsid()
    for number, path in enumerate(texts, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words
    exec(before, {})
    command.main()


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
