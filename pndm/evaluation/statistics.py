"""Additive means and covariances, their Fréchet distance, and its uncertainty.

The Fréchet distance of two samples is biased by about c/N, so N is part of the number. A block
jackknife estimates that bias and the standard error from the statistics of 20 blocks alone. Its
estimand is the generator (N → ∞) against the fixed reference; the variance over training seeds and
reference samples is not included. (A bootstrap repeats images, which adds the same bias once more:
its intervals miss the true value.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pndm._errors import InputError, MissingFile
from pndm._files import make_folder, write_atomic

BLOCKS = 20
"""The number of blocks of a jackknife."""

CHUNK = 8192
"""Rows of features per product in a stream: fewer, larger products."""

Device = torch.device | str

T_19 = 2.0930240544083096
"""The 97.5 % quantile of Student's t with BLOCKS − 1 degrees of freedom."""


class Moments(Protocol):
    """The moments in a Fréchet distance: a mean [D] and a covariance [D, D], float64."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Statistics:
    """n, the mean [D] and the scatter Σ(x−mean)(x−mean)ᵀ [D, D] of features, float64 on the CPU.

    They can be added and subtracted like n, Σx and Σxxᵀ, but without cancellation if the mean is
    large relative to the standard deviation (Chan, Golub & LeVeque 1983).
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """Compute the statistics of features [N, D]; InputError if one is not finite."""
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features must be [N, D] with N ≥ 1, not {list(features.shape)}")
        # all in NumPy: torch's threads would still be spinning during the product, of which
        # NumPy, detecting XᵀX, computes only one triangle
        if features.dtype == torch.bfloat16:  # unknown to NumPy
            features = features.float()
        rows = features.detach().cpu().numpy().astype(np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        scatter = rows.T @ rows
        if not np.isfinite(scatter.diagonal()).all():  # the diagonal bounds the other entries
            raise InputError("features contain NaN or infinity: check their images")
        return cls(len(rows), torch.from_numpy(mean), torch.from_numpy(scatter))

    @classmethod
    def stream(cls, parts: Iterable[Tensor]) -> "Statistics":
        """Compute the statistics of a stream of features [n, D], about CHUNK rows in memory."""
        whole = None
        for features in _gathered(parts):
            new = cls.of(features)
            whole = new if whole is None else whole._with(new, whole.scatter.add_(new.scatter))
        return cls.of(torch.empty(0, 0)) if whole is None else whole

    def __add__(self, other: "Statistics") -> "Statistics":
        """The statistics of both samples together."""
        _check_alike(self, other)
        return self._with(other, self.scatter + other.scatter)

    def _with(self, other: "Statistics", within: Tensor) -> "Statistics":
        """Combine two samples whose scatters sum to `within`, which is modified in place."""
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        return Statistics(n, mean, within.addr_(delta, delta, alpha=self.n * other.n / n))

    def __sub__(self, part: "Statistics") -> "Statistics":
        """The statistics of the sample without a part, the inverse of `+`."""
        _check_alike(self, part)
        n = self.n - part.n
        if n < 1:
            raise ValueError(f"cannot subtract {part.n} from {self.n} images")
        delta = part.mean - self.mean
        mean = self.mean - delta * (part.n / n)
        rest = self.scatter - part.scatter
        return Statistics(n, mean, rest.addr_(delta, delta, alpha=-self.n * part.n / n))

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [D, D], scatter / (n−1); ValueError for a single image."""
        if self.n < 2:
            raise ValueError("one image has no covariance")
        return self.scatter / (self.n - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays n, mean and scatter, for files."""
        return {"n": np.array(self.n), "mean": self.mean.numpy(), "scatter": self.scatter.numpy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Statistics":
        """The inverse of `arrays`; InputError if one is missing."""
        missing = {"n", "mean", "scatter"} - set(arrays)
        if missing:
            raise InputError(f"these are no statistics: {', '.join(sorted(missing))} missing")
        mean, scatter = (torch.tensor(arrays[k], dtype=torch.float64) for k in ("mean", "scatter"))
        return cls(int(arrays["n"]), mean, scatter)

    def save(self, path: Path) -> None:
        """Write `arrays` as an .npz, atomically."""
        save_arrays(path, self.arrays())

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """The inverse of `save`."""
        return cls.from_arrays(load_arrays(path))


def _gathered(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Regroup rows into tensors of at least CHUNK rows, except for the last one."""
    waiting: list[Tensor] = []
    for part in parts:
        if len(part):
            waiting.append(part)
        if sum(map(len, waiting)) >= CHUNK:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz atomically."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    make_folder(path.parent)
    write_atomic(path, write)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an .npz of plain arrays; InputError if it is not one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}") from None
    except Exception as error:  # zip, header and pickle errors, all with the same meaning
        raise InputError(
            f"{path} is not an .npz of plain arrays ({error}): create it again"
        ) from None


def blocks(features: Tensor) -> list[Statistics]:
    """The statistics of BLOCKS equal blocks of consecutive features [N, D], N ≥ BLOCKS."""
    if len(features) < BLOCKS:
        raise ValueError(f"{BLOCKS} blocks need as many images, not {len(features)}")
    return [Statistics.of(part) for part in torch.tensor_split(features, BLOCKS)]


def total(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of all parts together; ValueError if there are none."""
    if not parts:
        raise ValueError("there are no statistics to add up")
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def frechet_to(b: Moments, device: Device = "cpu") -> Callable[[Moments], float]:
    """a ↦ `frechet_distance(a, b)`, with b's covariance factored once.

    For any factor Σ_b = L Lᵀ the eigenvalues of Lᵀ Σ_a L are those of Σ_b^½ Σ_a Σ_b^½. They are
    computed on `device`, in float64 on a GPU too: the same but for rounding.
    """
    factor, singular = torch.linalg.cholesky_ex(_checked(b))
    if singular:
        values, vectors = torch.linalg.eigh(b.covariance)
        factor = vectors * values.clamp(min=0).sqrt()
    factor = factor.to(device)

    def distance(a: Moments) -> float:
        _check_alike(a, b)
        product = factor.T @ _checked(a).to(device) @ factor
        eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0)
        traces = a.covariance.trace() + b.covariance.trace()
        return (
            (a.mean - b.mean).square().sum() + traces - 2 * eigenvalues.sqrt().sum().cpu()
        ).item()

    return distance


def frechet_distance(a: Moments, b: Moments) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_b^½ Σ_a Σ_b^½)^½), the squared 2-Wasserstein distance of
    two Gaussians (Dowson & Landau 1982), by symmetric eigenvalues in float64."""
    return frechet_to(b)(a)


def _check_alike(a: Moments, b: Moments) -> None:
    """Raise ValueError for features of different dimensions."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} numbers differ")


def _checked(moments: Moments) -> Tensor:
    """Return the covariance if both moments are float64 on the CPU; TypeError otherwise."""
    for tensor in (moments.mean, moments.covariance):
        if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
            raise TypeError(f"moments must be float64 on the CPU, not {tensor.dtype}")
    return moments.covariance


@dataclass(frozen=True)
class Estimate:
    """A statistic of the sample, its bias-corrected value, standard error and 95 % interval."""

    value: float
    bias_corrected: float
    se: float

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.bias_corrected - T_19 * self.se

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.bias_corrected + T_19 * self.se


def jackknife(statistic: Callable[..., float], *samples: Sequence[Statistics]) -> Estimate:
    """Leave one of BLOCKS blocks out at a time, from all samples at once if there are several.

    Blocks i of several samples must have the same seeds: the more they correlate, the smaller the
    error of a comparison.
    """
    if {len(parts) for parts in samples} != {BLOCKS}:
        counts = ", ".join(str(len(parts)) for parts in samples) or "none"
        raise ValueError(f"a jackknife takes {BLOCKS} blocks, not {counts}")
    if len({tuple(part.n for part in parts) for parts in samples}) != 1:
        raise ValueError("samples can be paired only where their blocks are of the same sizes")
    wholes = [total(parts) for parts in samples]
    value = statistic(*wholes)
    without = [
        statistic(*(whole - part for whole, part in zip(wholes, row, strict=True)))
        for row in zip(*samples, strict=True)
    ]
    return from_leave_one_out(value, without, [part.n for part in samples[0]])


def from_leave_one_out(value: float, without: Sequence[float], sizes: Sequence[int]) -> Estimate:
    """The estimate from a statistic θ of all blocks, and θ_(i) of all but block i of m_i images.

    With h_i = n/m_i and the pseudo-values p_i = h_i·θ − (h_i−1)·θ_(i), the corrected value is
    Σ_i p_i/h_i, free of a bias of order 1/n for blocks of unequal size too, and its variance
    Σ_i (p_i − corrected)²/(h_i − 1)/BLOCKS (Busing, Meijer & van der Leeden 1999).
    """
    h = sum(sizes) / np.asarray(sizes)
    pseudo = h * value - (h - 1) * np.asarray(without)
    corrected = float((pseudo / h).sum())
    se = float(np.sqrt(((pseudo - corrected) ** 2 / (h - 1)).mean()))
    return Estimate(value, corrected, se)


def distance(
    generator: Sequence[Statistics], reference: Moments, device: Device = "cpu"
) -> Estimate:
    """The Fréchet distance of a generator, given its BLOCKS blocks, to a fixed reference."""
    return jackknife(frechet_to(reference, device), generator)


def difference(a: Sequence[Statistics], b: Sequence[Statistics], reference: Moments) -> Estimate:
    """The distance of generator a minus that of b, block by block from the same seeds."""
    to = frechet_to(reference)
    return jackknife(lambda x, y: to(x) - to(y), a, b)


def extrapolate(
    generator: Sequence[Statistics], reference: Moments, device: Device = "cpu"
) -> float:
    """The distance at n → ∞: the intercept of a line in 1/n through the distances of the first
    half of the blocks, of one block more, … of all (Chong & Forsyth 2020). ValueError for fewer
    than two blocks."""
    if len(generator) < 2:
        raise ValueError(f"an extrapolation needs at least two blocks, not {len(generator)}")
    to, whole = frechet_to(reference, device), total(generator[: len(generator) // 2])
    points = [(1 / whole.n, to(whole))]
    for part in generator[len(generator) // 2 :]:
        whole = whole + part
        points.append((1 / whole.n, to(whole)))
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[1])
