"""Several processes for one run: workers on this machine, tasks of a Slurm step on many.

Each claims shards until none is left. They exchange nothing, so one that dies costs its shard and
no more; what is left at last the caller makes. Workers (`python -m pndm.worker`) are started by
the launcher of torch.distributed, tasks by Slurm, which gives them all the same command.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from pndm import config, interrupts, records
from pndm.worker import PARENT, Job

RESTARTS = 3
"""How often the launcher starts the workers again after one has died."""


def tasks() -> int:
    """How many tasks of a Slurm step run this command, on one node or several."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def task() -> int:
    """This task's number among them."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def run_workers(job: Job, folder: Path, bar: tqdm) -> None:
    """Start `processes` workers of a run and wait for their end; `folder` keeps what they said.

    No more than there are shards. The processor's cores are shared out among them, unless
    OMP_NUM_THREADS says otherwise.
    """
    settings, log = (folder / f"workers-{task()}.{suffix}" for suffix in ("yaml", "log"))
    records.atomic(settings, lambda path: path.write_text(config.as_yaml(job.cfg)))
    number = min(config.processes(job.cfg), job.shards)
    threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, PARENT: str(os.getpid())}
    here = str(config.CONF.parent)  # the code of this process, whatever else is installed
    environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.getenv("PYTHONPATH")])])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = [f"--nproc-per-node={number}", f"--max-restarts={RESTARTS}"]
    command = [*launcher, *options, "-m", "pndm.worker", str(settings)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while process.poll() is None:
                interrupts.check()
                show_progress(job, bar)
                time.sleep(0.2)
            show_progress(job, bar)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        print(f"a worker failed (see {log}): this process makes what is missing")


def show_progress(job: Job, bar: tqdm) -> None:
    """Set the bar to the images that are there."""
    done = [shard for shard in range(job.shards) if job.images.path(shard).exists()]
    bar.n = sum(len(job.seeds(shard)) for shard in done)
    bar.refresh()
