"""The FID of real data, the floor of a table: of digits, and of Fashion-MNIST's test images."""

import contextlib

import pandas as pd
import torch

from experiments.main_table.cells import FLOORS
from pndm.data import datasets
from pndm.data.databases import MissingData
from pndm.evaluation.features import extract_features, load_extractor
from pndm.evaluation.metrics import distance, split_half_fid
from pndm.evaluation.reference import load_reference
from pndm.evaluation.statistics import Statistics


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """The FID of real data, as many as in the cells; of Fashion-MNIST where its images are."""
    rows = []
    for samples in cells["samples"][cells["dataset"] == "fashion_mnist"].unique():
        with contextlib.suppress(MissingData):
            values = torch.tensor(fid_of_test_images("fashion_mnist", int(samples)))
            row = {"dataset": "fashion_mnist", "samples": samples, "extractor": "fashion"}
            mean, sd = values.mean().item(), values.std().item()
            rows.append({**row, "fid": round(mean, 4), "sd": round(sd, 4)})
    if (cells["dataset"] == "digits").any():
        features = extract_features(datasets.digits(), load_extractor("digits"))
        halves = split_half_fid(torch.cat(list(features)))
        row = {"dataset": "digits", "samples": halves["n_perfect"], "extractor": "digits"}
        rows.append({**row, "fid": round(halves["perfect"], 4), "sd": round(halves["sd"], 4)})
    return pd.DataFrame(rows, columns=FLOORS)


def fid_of_test_images(dataset: str, samples: int, draws: int = 10) -> list[float]:
    """The FID of so many of a dataset's test images, drawn at random, several times."""
    extractor = load_extractor("fashion")
    features = torch.cat(list(extract_features(datasets.source(dataset)("test"), extractor)))
    reference, found = load_reference(dataset, extractor), []
    for seed in range(draws):
        order = torch.randperm(len(features), generator=torch.Generator("cpu").manual_seed(seed))
        found.append(distance(Statistics.of(features[order[:samples]]), reference))
    return found
