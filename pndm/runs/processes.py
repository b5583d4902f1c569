"""Several processes for one run: workers on this machine, tasks of a Slurm step on many.

Each claims shards until none is left. They do not communicate, so a process that dies loses only
its current shard, which the caller then samples. Workers (`python -m pndm.runs.worker`) are
started by the launcher of torch.distributed, tasks by Slurm, with the same command for all.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from pndm._devices import gpu_count, resolve_device
from pndm._files import write_atomic
from pndm.config.schema import Run, to_yaml
from pndm.runs import interrupts
from pndm.runs.job import Job
from pndm.runs.worker import PARENT_PID

RESTARTS = 3
"""How often the launcher restarts the workers after one has died."""


def task_count() -> int:
    """The number of tasks of a Slurm step that run this command, on one node or several."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def task_rank() -> int:
    """The rank of this task."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def process_count(cfg: Run) -> int:
    """The number of processes of a run; `auto` is one per GPU, of which tasks are one each."""
    if cfg.processes != "auto":
        return int(cfg.processes)
    return max(1, gpu_count()) if task_count() == 1 else 1


def assign_gpu(cfg: Run, launcher: str, number: int) -> Run:
    """Pin a run to one GPU, round-robin by job number, if jobs or tasks share a machine's GPUs.

    The workers of a multi-process run choose theirs by rank.
    """
    numbers = dict.fromkeys(("joblib", "slurm_local"), number)
    index = numbers.get(launcher, os.environ.get("SLURM_LOCALID"))
    if index is None or cfg.device != "auto" or process_count(cfg) > 1:
        return cfg
    if resolve_device("auto") == "cpu":
        return cfg
    return dataclasses.replace(cfg, device=f"cuda:{int(index) % gpu_count()}")


def run_workers(job: Job, bar: tqdm) -> None:
    """Start the workers of a run and wait until they end; their log is in the run's folder.

    At most one worker per shard. CPU cores are divided among them, unless OMP_NUM_THREADS is
    set.
    """
    settings, log = (job.folder / f"workers-{task_rank()}.{suffix}" for suffix in ("yaml", "log"))
    write_atomic(settings, lambda path: path.write_text(to_yaml(job.cfg), encoding="utf-8"))
    number = min(process_count(job.cfg), len(job.shards))
    threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, PARENT_PID: str(os.getpid())}
    here = str(Path(__file__).parents[2])  # the code of this process, not another installation
    environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.getenv("PYTHONPATH")])])
    environment["PYTHONIOENCODING"] = "utf-8"  # of the log
    environment |= without_proxy()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = [f"--nproc-per-node={number}", f"--max-restarts={RESTARTS}"]
    command = [*launcher, *options, "-m", "pndm.runs.worker", str(settings)]
    with log.open("w", encoding="utf-8") as file:
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
        print(f"a worker failed (see {log}): this process samples the missing shards")


def without_proxy() -> dict[str, str]:
    """The environment in which no proxy is asked for this machine itself."""
    local = "localhost,127.0.0.1,::1"
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return dict.fromkeys(("no_proxy", "NO_PROXY"), f"{given},{local}" if given else local)


def show_progress(job: Job, bar: tqdm) -> None:
    """Set the progress bar to the number of finished images."""
    shards = range(len(job.shards))
    finished = [shard for shard in shards if job.images.path(shard).exists()]
    bar.n = sum(len(job.shards.seeds(shard)) for shard in finished)
    bar.refresh()
