"""The loss: the distance of the student's images to the teacher's, image by image and in moments.

Few evaluations cannot lead every noise to the teacher's image. The squared distance alone then
pulls images to their mean, and the student's images vary less than the teacher's: the distance
falls while FID rises. So the moments of a batch are compared too.

And a few noises end in another image altogether: of 512 digits by a good plan of 5 evaluations,
5 % have more than half of the squared distance. So distances above `huber` count linearly, which
leaves the gradient to the others.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pndm.noise import derive_seed

MAX_DIMENSIONS = 256
"""Images with more pixels are projected onto this many random directions."""


@dataclass(frozen=True)
class Loss:
    """H(d) + moments·(‖Cov x − Cov y‖²/‖Cov y‖² + ‖mean x − mean y‖²/‖mean y‖²), d² = |x − y|²/D.

    x and y [B, ...] are images of the student and the teacher from the same noise, and H is the
    mean of 2h·(√(d² + h²) − h), the pseudo-Huber loss with h = `huber` (as in Song & Dhariwal
    2024, for consistency models): d² where d is small, 2h·d where it is large. For h = 0 it is
    the mean of d². Moments are those of a batch, over all D pixels, or over MAX_DIMENSIONS
    random directions of them, which are the same in every call.
    """

    moments: float = 0.5
    huber: float = 0.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        pixels = self.distance(x, y).mean()
        if not self.moments:
            return pixels
        (mean_x, covariance_x), (mean_y, covariance_y) = map(mean_and_covariance, (x, y))
        return pixels + self.moments * (
            relative(covariance_x, covariance_y) + relative(mean_x, mean_y)
        )

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """d², or 2h·(√(d² + h²) − h) without its cancellation, of each image, [B]."""
        squares = (x - y).square().flatten(1).mean(1)
        if not self.huber:
            return squares
        return squares * (2 / (1 + (1 + squares / self.huber**2).sqrt()))


def relative(x: Tensor, y: Tensor) -> Tensor:
    """‖x − y‖²/‖y‖²."""
    return (x - y).square().sum() / y.square().sum()


def mean_and_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [d] and covariance [d, d] of a batch of images [B, ...]."""
    flat = x.flatten(1)
    if flat.shape[1] > MAX_DIMENSIONS:
        flat = flat @ projection(flat.shape[1]).to(flat)
    mean = flat.mean(0)
    centred = flat - mean
    return mean, centred.T @ centred / len(flat)


@lru_cache(maxsize=1)
def projection(dimensions: int) -> Tensor:
    """Fixed orthonormal columns [dimensions, MAX_DIMENSIONS]."""
    generator = torch.Generator().manual_seed(derive_seed("projection", dimensions))
    columns = torch.randn(dimensions, MAX_DIMENSIONS, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(columns).Q
