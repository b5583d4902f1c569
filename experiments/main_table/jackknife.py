"""Confidence intervals from leave-one-block-out distances, which are small enough to commit.

`pndm.evaluation.statistics` computes them from feature statistics, megabytes for a table. The
block jackknife needs only the distance of the whole sample and of each sample without one block,
and so does the jackknife of a difference between two solvers: leaving a block of seeds out of both
changes the difference by the difference of the changes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pndm.evaluation.reference import Reference
from pndm.evaluation.statistics import (
    BLOCKS,
    Estimate,
    Statistics,
    frechet_to,
    from_leave_one_out,
    total,
)

WITHOUT = tuple(f"without_{i:02d}" for i in range(BLOCKS))
"""Columns of the leave-one-block-out distances."""


def sizes(samples: int) -> list[int]:
    """The numbers of images in the blocks of a run, as equal as possible."""
    return np.diff([samples * i // BLOCKS for i in range(BLOCKS + 1)]).tolist()


def distances(blocks: Sequence[Statistics], reference: Reference) -> tuple[float, list[float]]:
    """The distance of all blocks to the reference, and the leave-one-block-out distances."""
    to, whole = frechet_to(reference), total(blocks)
    return to(whole), [to(whole - block) for block in blocks]


def paired(one: pd.Series, other: pd.Series) -> Estimate:
    """The estimate of FID of one row minus that of another, both from the same seeds.

    Rows have `fid`, `samples` and the WITHOUT columns; ValueError for other numbers of images.
    """
    samples = int(one["samples"])
    if samples != int(other["samples"]):
        raise ValueError(f"{samples} and {other['samples']} images do not compare")
    without = (one[list(WITHOUT)] - other[list(WITHOUT)]).astype(float)
    return from_leave_one_out(one["fid"] - other["fid"], without, sizes(samples))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates from disjoint sets of seeds, which are independent."""
    value, corrected = (
        float(np.mean(values))
        for values in zip(*((e.value, e.bias_corrected) for e in estimates), strict=True)
    )
    se = float(np.sqrt(sum(e.se**2 for e in estimates))) / len(estimates)
    return Estimate(value, corrected, se)
