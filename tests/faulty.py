"""Functions for processes that a test starts, which cannot import the test's own module."""

import torch


def fail_in_second(part):
    """A bug of one process, for which the first waits."""
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    if part.rank == 1:
        raise ZeroDivisionError("a bug")
    torch.distributed.all_reduce(total)
