"""Metadata next to weights: our card, and the scheduler configuration of diffusers.

Does not import torch, so that configurations are validated without delay.
"""

import json
from pathlib import Path
from typing import Any

from pndm._files import read_json
from pndm.models.registry import ARCHITECTURES, CheckpointError

STEM = "diffusion_pytorch_model"
"""The prefix of diffusers' weight file names."""

TRAINED_ON = ("schedule", "timesteps", "beta_start", "beta_end", "prediction")
"""Card entries on the noise schedule of the training, and on the prediction type."""

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
"""The names of diffusers, mapped to ours."""


def read(path: Path) -> dict[str, Any]:
    """Return the card next to a file, as saving and training write it; empty if there is none.

    CheckpointError if the card is damaged; any other JSON file is ignored.
    """
    card_path = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not card_path.is_file():
        return {}
    try:
        text = card_path.read_text(encoding="utf-8-sig")
        card, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{card_path} is not a card of weights: fix or remove it") from None
    if not isinstance(card, dict) or not {"name", "architecture", "sha256"} <= card.keys():
        return {}
    if card["architecture"] not in (None, *ARCHITECTURES):
        return {}
    if card.get("ema") is not None:
        card["ema"] = bool(card["ema"])  # training writes the rate of the average
    return card


def trained_on(path: Path) -> dict[str, Any]:
    """Return the entries of TRAINED_ON from the metadata next to a file."""
    card = read(path)
    entries = {key: card[key] for key in TRAINED_ON if card.get(key) is not None}
    return entries or _of_scheduler(path)


def _of_scheduler(path: Path) -> dict[str, Any]:
    """The same from diffusers' scheduler_config.json in the folder, or next to a UNet's folder."""
    if not path.name.startswith(STEM):
        return {}
    here = path.parent
    for file in (here / "scheduler_config.json", here.parent / "scheduler/scheduler_config.json"):
        config = read_json(file)
        if config is None:
            continue
        if config.get("trained_betas") is not None:
            return {}
        try:
            schedule = SCHEDULES.get(config.get("beta_schedule", "linear"))
            prediction = PREDICTIONS.get(config.get("prediction_type", "epsilon"))
        except TypeError:  # a list or an object, which is no key
            raise CheckpointError(
                f"{file} is not a scheduler's config of diffusers: fix or remove it"
            ) from None
        entries = {
            "schedule": schedule,
            "timesteps": config.get("num_train_timesteps"),
            "prediction": prediction,
        }
        if schedule != "cosine":
            entries |= {key: config.get(key) for key in ("beta_start", "beta_end")}
        return {key: value for key, value in entries.items() if value is not None}
    return {}
