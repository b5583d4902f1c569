"""Learned plans: the times and weights of a multistep method, fitted to one network; their file.

With x̃ = x/√ᾱ and ρ = √((1−ᾱ)/ᾱ) a plan of N evaluations is

    x̃_{i+1} = x̃_i + (ρ_{i+1} − ρ_i)·Σ_{j≤i} w_ij·e_j,   e_j = network(x_j, time_j),

any linear multistep method by its numbers. `pndm.fit` learns them, `pndm.plans.load` compiles
them. Sources: Tong et al. 2024 (LD3: times), Frankel et al. 2025 (S4S: weights).
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pndm._errors import InputError
from pndm.prediction import Prediction
from pndm.schedules import Node, Schedule, number

SCHEMA = 1
"""The version of the file's keys."""

PARTS = ("times", "weights", "clock")
"""What can be learned: the t_i, the w_ij, and offsets of the times that the network is given."""

FIRST_SEED_SET = 10**6
"""The seed sets from here on are for fitting and validation, those below for evaluation."""

SHIPPED = Path(__file__).parent / "models" / "plans"
"""The folder of the plans that come with the package, NETWORK-EVALUATIONS.json."""

MAX_WEIGHT = 1e6
"""The largest |w_ij|, which leaves sums of evaluations in the range of float32."""

TOLERANCE = 1e-6
"""The largest relative difference of ᾱ at which two schedules count as equal."""


@dataclass(frozen=True)
class Learned:
    """The numbers of a learned plan, float64, and what they were fitted to.

    `nodes` are t_0 … t_N with their ᾱ, `times` the N times that the network is given, `weights`
    the rows w_i0 … w_ii. `network` and `schedule` describe what the plan is for, and `fitted` how
    it came to be. With `override` a plan is used with another network, after a warning.
    InputError for numbers that are not a plan.
    """

    name: str
    nodes: tuple[Node, ...]
    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    prediction: Prediction = "noise"
    network: Mapping[str, Any] = field(default_factory=dict, compare=False)
    schedule: Mapping[str, Any] = field(default_factory=dict, compare=False)
    fitted: Mapping[str, Any] = field(default_factory=dict, compare=False)
    override: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        steps = len(self.nodes) - 1
        if steps < 1 or not len(self.times) == len(self.weights) == steps:
            raise InputError(
                f"{steps} steps between {steps + 1} nodes need as many rows, "
                f"not {len(self.weights)}"
            )
        numbers = [*self.times, *(value for node in self.nodes for value in node[:2])]
        weights = [w for row in self.weights for w in row]
        if not all(map(math.isfinite, [*numbers, *weights])):
            raise InputError("a time, ᾱ or weight is not a finite number")
        if any(abs(w) > MAX_WEIGHT for w in weights):
            raise InputError(
                f"a weight is {max(weights, key=abs):g}: they are within ±{MAX_WEIGHT:g}"
            )
        for i, row in enumerate(self.weights):
            if len(row) != i + 1:
                raise InputError(f"row {i} has {len(row)} weights, but must have {i + 1}")
        if any(not t.time > s.time for t, s in pairwise(self.nodes)) or self.nodes[-2].time < 0:
            raise InputError(
                "the times of the nodes must descend, and only the last may be below 0"
            )
        if any(not 0 < t.alpha_bar <= s.alpha_bar <= 1 for t, s in pairwise(self.nodes)):
            raise InputError("ᾱ must be in (0, 1] and must not fall from node to node")
        if self.nodes[-2].alpha_bar == 1 or min(self.times) < 0:
            raise InputError("the network would be evaluated where there is no noise")
        if self.prediction not in get_args(Prediction):
            raise InputError(f"no prediction {self.prediction!r}")

    @property
    def digest(self) -> str:
        """A hash of everything that determines its images, except the network."""
        numbers = [[node[:2] for node in self.nodes], self.times, self.weights, self.prediction]
        return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()

    @property
    def description(self) -> str:
        """One line: the plan's name, its network, schedule and start."""
        schedule = " ".join(f"{key}={value}" for key, value in self.schedule.items())
        start = " ".join(f"{key}={value}" for key, value in self.fitted.get("start", {}).items())
        network = self.network.get("name", "an unknown network")
        return f"{self.name}, fitted to {network} ({schedule or 'unknown schedule'}) from {start}"

    def require_schedule(self, schedule: Schedule, prediction: Prediction) -> None:
        """Raise InputError unless ᾱ at the nodes and the prediction are those of the fit.

        Also where a time for the network is outside the schedule.
        """
        if prediction != self.prediction:
            raise InputError(
                f"the plan {self.name} is for networks that predict {self.prediction}, "
                f"not {prediction}"
            )
        for time, alpha_bar, _ in self.nodes:
            inside = -1 <= time <= schedule.timesteps - 1
            given = schedule.node(time).alpha_bar if inside else math.nan
            if not math.isclose(given, alpha_bar, rel_tol=TOLERANCE):
                known = ", ".join(f"{key}={value}" for key, value in self.schedule.items())
                raise InputError(
                    f"the plan {self.name} was fitted on another schedule ({known}): at time "
                    f"{time:g} it has ᾱ = {alpha_bar:.6g}, {schedule.name} has {given:.6g}"
                )
        if max(self.times) > schedule.timesteps - 1:
            raise InputError(
                f"the plan {self.name} gives the network the time {max(self.times):g}, but it "
                f"knows those up to {schedule.timesteps - 1}"
            )

    def require_network(self, sha256: str | None) -> None:
        """Raise InputError for the weights of another network; with `override` only warn.

        An unknown network (None) is not checked.
        """
        own = self.network.get("sha256")
        if sha256 is None or own is None or sha256 == own:
            return
        message = (
            f"the plan {self.name} was fitted to another network, {self.network.get('name')} "
            f"(SHA-256 {own[:12]}…), not to weights of SHA-256 {sha256[:12]}…"
        )
        if not self.override:
            raise InputError(f"{message}: override=true uses it nevertheless")
        warnings.warn(message, stacklevel=2)

    def to_json(self) -> dict[str, Any]:
        """The content of its file."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "network": dict(self.network),
            "schedule": dict(self.schedule),
            "prediction": self.prediction,
            "nodes": [{"time": t, "alpha_bar": a} for t, a, _ in self.nodes],
            "rows": [
                {"time": time, "weights": list(row)}
                for time, row in zip(self.times, self.weights, strict=True)
            ],
            "fitted": dict(self.fitted),
        }

    @classmethod
    def from_json(cls, content: Any, override: bool = False) -> "Learned":
        """The inverse of `to_json`; InputError for other content, or of a newer version."""
        schema = content.get("schema") if isinstance(content, dict) else None
        if not isinstance(schema, int):
            raise InputError("this is no plan: it has no schema")
        if schema > SCHEMA:
            raise InputError(f"schema {schema} is of a newer version of pndm: update pndm")
        try:
            network, fitted = dict(content["network"]), dict(content["fitted"])
            schedule = dict(content["schedule"])
            if not isinstance(network.get("sha256"), str | None):
                raise TypeError("the network's sha256 is no text")
            if not isinstance(fitted.get("start", {}), dict):
                raise TypeError("what it was fitted from, start, is no object")
            json.dumps([network, schedule, fitted], allow_nan=False)
            return cls(
                str(content["name"]),
                tuple(
                    Node(number(n["time"]), number(n["alpha_bar"]), 0.0) for n in content["nodes"]
                ),
                tuple(number(row["time"]) for row in content["rows"]),
                tuple(tuple(map(number, row["weights"])) for row in content["rows"]),
                content["prediction"],
                network,
                schedule,
                fitted,
                override,
            )
        except KeyError as error:
            raise InputError(f"{error} is missing") from None
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"this is no plan: {error}") from None


def read(source: str | Path, override: bool = False) -> Learned:
    """The plan in a file, or the shipped one of that name; InputError for a file that is none."""
    path = Path(source)
    try:
        if not path.is_file():
            path = SHIPPED / f"{source}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        return Learned.from_json(content, override)
    except (FileNotFoundError, NotADirectoryError):
        known = ", ".join(names()) or "none"
        raise InputError(f"plan={source}: no such file, and shipped plans are {known}") from None
    except (OSError, ValueError, RecursionError) as error:  # an InputError is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"plan={source}: {reason}") from None


def names() -> list[str]:
    """The names of the shipped plans."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))
