"""Several processes of this machine that train one network: start, parts of a batch, means."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from pndm._devices import resolve_device, use_device
from pndm._errors import PndmError, one_line

WAIT_SECONDS = 3
"""How long a process waits with its exception, so that the one that caused it is seen first."""


class Part(NamedTuple):
    """What one process does of every batch: the part of `rank` among `processes`."""

    rank: int = 0
    processes: int = 1

    def of(self, batch: Any) -> Any:
        """This process's part of a list or a tensor [B, ...]; sizes differ by one at most."""
        size = len(batch)
        return batch[size * self.rank // self.processes : size * (self.rank + 1) // self.processes]

    def weight(self, batch_size: int) -> float:
        """What a mean over this part counts in the mean over all processes."""
        return len(self.of(range(batch_size))) * self.processes / batch_size


class PartialDropout(nn.Dropout):
    """Dropout of a part of a batch, with the random numbers that the whole batch would have."""

    def __init__(self, p: float, part: Part, batch_size: int) -> None:
        super().__init__(p)
        self.part, self.batch_size = part, batch_size

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return h
        last = h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()
        whole = torch.empty(
            (self.batch_size, *h.shape[1:]),
            dtype=h.dtype,
            device=h.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
        return h * self.part.of(whole.bernoulli_(1 - self.p).div_(1 - self.p))


def distribute(network: nn.Module, part: Part, batch_size: int) -> nn.Module:
    """The network with gradients that are means over the processes; itself where there is one.

    Source: Li et al., PyTorch Distributed (2020). Its dropout is replaced by PartialDropout.
    """
    if part.processes == 1:
        return network
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, PartialDropout(child.p, part, batch_size))
    return nn.parallel.DistributedDataParallel(network)


def mean_of_processes(value: Tensor, part: Part) -> Tensor:
    """The mean of a tensor over the processes."""
    if part.processes == 1:
        return value
    dist.all_reduce(value)
    return value / part.processes


def run_processes(function: Callable[..., None], count: int, device: str, *arguments: Any) -> None:
    """Call function(*arguments, part) in `count` processes of this machine, until all have ended.

    Each has a GPU of its own where `device` is one, else a share of the cores. All end where one
    does: PndmError for what a user can mend and for a process that was killed, RuntimeError with
    the traceback for anything else. KeyboardInterrupt on SIGINT and SIGTERM.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="pndm",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    logging.disable(logging.ERROR)  # of the launcher: the errors below say it
    try:
        elastic_launch(launch, _process)(function, count, device, arguments)
        return
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
    finally:
        logging.disable(logging.NOTSET)
    message: Any = failure.message
    if failure.exitcode < 0:
        raise PndmError(
            f"one of {count} processes ended, and the others with it ({message}): the same "
            "command continues from the last checkpoint"
        )
    if isinstance(message, str):
        raise RuntimeError(message)
    kind, _, text = message["message"].partition(": ")
    if kind == PndmError.__name__:
        raise PndmError(text)
    raise RuntimeError(message["extraInfo"]["py_callstack"])


def _process(
    function: Callable[..., None], count: int, device: str, arguments: tuple[Any, ...]
) -> None:
    """One of the processes; PndmError itself for all of its kind, as the launcher tells names."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, without waiting for the others
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a killed process
    part = Part(int(os.environ["RANK"]), count)
    is_cuda = resolve_device(device) == "cuda"
    if is_cuda:
        use_device(f"cuda:{part.rank}")
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        dist.init_process_group("nccl" if is_cuda else "gloo")
        function(*arguments, part)
        dist.destroy_process_group()
    except PndmError as error:
        raise PndmError(one_line(error)) from error
    except Exception:
        time.sleep(WAIT_SECONDS)
        raise
