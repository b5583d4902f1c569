"""What stands beside weights about them: our card, and the settings of a scheduler of diffusers.

Nothing here imports torch, so that a configuration can be checked at once.
"""

import json
from pathlib import Path
from typing import Any

from pndm.models.registry import ARCHITECTURES, CheckpointError

STEM = "diffusion_pytorch_model"
"""What the names of diffusers' files of weights begin with."""

TRAINED_ON = ("schedule", "timesteps", "beta_start", "beta_end", "prediction")
"""What a card may say of the noise that a network was trained with, and of what it predicts."""

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
"""diffusers' words in ours."""


def read(path: Path) -> dict[str, Any]:
    """The card beside a file, as saving and training write it; empty where there is none.

    CheckpointError for a file of its name that is damaged; other people's JSON is no card.
    """
    card_path = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not card_path.is_file():
        return {}
    try:
        text = card_path.read_text(encoding="utf-8-sig")
        card, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        raise CheckpointError(f"{card_path} is no card of weights: mend or remove it") from None
    if not isinstance(card, dict) or not {"name", "architecture", "sha256"} <= card.keys():
        return {}
    if card["architecture"] is not None and card["architecture"] not in ARCHITECTURES:
        return {}
    if card.get("ema") is not None:
        card["ema"] = bool(card["ema"])  # training writes the rate of the average
    return card


def trained_on(path: Path) -> dict[str, Any]:
    """What is said beside a file of the noise it was trained with: entries of TRAINED_ON."""
    card = read(path)
    said = {key: card[key] for key in TRAINED_ON if card.get(key) is not None}
    return said or _of_scheduler(path)


def _of_scheduler(path: Path) -> dict[str, Any]:
    """The same from diffusers' scheduler_config.json in the folder, or beside that of a UNet."""
    if not path.name.startswith(STEM):
        return {}
    here = path.parent
    for place in (here / "scheduler_config.json", here.parent / "scheduler/scheduler_config.json"):
        try:
            config = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(config, dict) or config.get("trained_betas") is not None:
            return {}
        schedule = SCHEDULES.get(config.get("beta_schedule", "linear"))
        said = {
            "schedule": schedule,
            "timesteps": config.get("num_train_timesteps"),
            "prediction": PREDICTIONS.get(config.get("prediction_type", "epsilon")),
        }
        if schedule != "cosine":
            said |= {key: config.get(key) for key in ("beta_start", "beta_end")}
        return {key: value for key, value in said.items() if value is not None}
    return {}
