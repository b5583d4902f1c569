"""The datasets as map-style sets of uint8 [C, H, W] images, preprocessed as the paper's are."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Part = Literal["all", "train", "holdout"]


class Images(Dataset[Tensor]):
    """Images held in memory as one uint8 tensor [N, C, H, W]."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def digits(part: Part = "all") -> Images:
    """scikit-learn's 1,797 real handwritten digits, 8×8 grey; its 17 levels spread over 0…255.

    `holdout` is a fixed random tenth (180 images), `train` the other nine.
    """
    from sklearn.datasets import load_digits

    levels = load_digits().images
    images = torch.from_numpy(np.rint(levels * (255 / 16)).astype(np.uint8))[:, None]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    tenth = -(-len(images) // 10)
    match part:
        case "all":
            return Images(images)
        case "train":
            return Images(images[order[tenth:].sort().values])
        case "holdout":
            return Images(images[order[:tenth].sort().values])


DATASETS = {"digits": digits}
"""The datasets by the names that `conf/dataset` gives them."""
