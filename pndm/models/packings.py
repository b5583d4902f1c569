"""Where in a file's content the network lies, and which of several is the moving average.

Training codes nest the weights under keys of their own and wrappers put words in front of every
name. The network is recognised by a name that every state_dict of it has; a moving average by
what the words on the way to it say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pndm.models import key_maps
from pndm.models.registry import CheckpointError, Format

State = dict[str, Tensor]

AVERAGE = re.compile(r"(?<![a-z])(?<!non[_-])(ema|swa|averaged?|shadow)(?![a-z])")
"""What the name of a moving average contains as a word, in small letters."""

TRAINING = re.compile(r"optim|(?<![a-z])opt(?![a-z])|epoch|step|iter|sched|scaler|callback|loops")
"""What the keys beside the last weights of a training are called."""

INTERIOR = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""What torch.compile, FSDP and others put anywhere into a name."""

COUNTERS = ("n_averaged", "initted", "num_updates", "optimization_step")
"""How often an average was updated, by torch.optim.swa_utils, lucidrains, score-SDE, diffusers."""


@dataclass(frozen=True)
class Found:
    """A network in a file: the keys that lead to it, its weights by name or in their order."""

    place: str
    state: State | list[Tensor]
    is_average: bool
    is_updated: bool = True

    @property
    def by_name(self) -> State:
        """The weights by name."""
        assert isinstance(self.state, dict)
        return self.state


def unpack(content: Any, ema: bool, name: str) -> tuple[dict, Format | None, bool | None]:
    """The state_dict in what a file holds, what the packing says of its format, and of averages.

    Of last weights and their moving average `ema` chooses. CheckpointError, in one line, where
    the one that is wanted is not there, or several may be meant.
    """
    packing: Format | None = None
    if isinstance(content, list) and content and isinstance(content[0], dict):
        packing = "ermongroup"  # [model, optimizer, epoch, step, average]
        keys = ["model", *map(str, range(1, len(content)))]
        if len(content) > 1 and isinstance(content[-1], dict):
            keys[-1] = "ema"
        content = dict(zip(keys, content, strict=True))
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} holds a {type(content).__name__}, not a state_dict")
    found = list(networks(_under_plain_keys(content)))
    if not found:
        return _only_state(content), packing, None
    for one in found:
        if not one.place and isinstance(one.state, dict):
            return one.state, packing, None
    averages, last = _sort(found, name)
    is_training = packing is not None or any(TRAINING.search(_words(key)) for key in content)
    if not ema:
        one = _one(last, name, "an average alone: ask for that, without ema=False")
        return one.by_name, packing, False if averages or is_training else None
    if averages:
        one = _one(averages, name, "")
        if not one.is_updated:
            raise CheckpointError(
                f"{name}: the average in {one.place} was never updated, so it holds the first "
                "weights of the training: train longer"
            )
        return one.by_name, packing, True
    one = _one(last, name, "")
    unread = [str(key) for key, value in content.items() if AVERAGE.search(_words(key)) and value]
    if unread:
        raise CheckpointError(
            f"{name} holds {', '.join(unread)}, but no average of all weights was found there: "
            "save its tensors alone, by the names of the network, and load that file"
        )
    if is_training:
        raise CheckpointError(
            f"{name} holds no moving average, only last weights (its keys are "
            f"{_listed(content)}): load those with ema=False, or make a file of them by "
            "python -m pndm.models convert FILE --last"
        )
    return one.by_name, packing, None


def _under_plain_keys(content: dict) -> dict:
    """The content, its average under `ema` where a code keeps it as the weights to use.

    Lightning's WeightAveraging and mmengine's EMAHook do, and move the last weights elsewhere.
    """
    for mark, last in (("current_model_state",) * 2, ("message_hub", "ema_state_dict")):
        if {mark, last, "state_dict"} <= content.keys():
            rest = {k: v for k, v in content.items() if k not in (last, "state_dict")}
            return {**rest, "model": content[last], "ema": content["state_dict"]}
    return content


def networks(content: Any, place: str = "") -> Iterator[Found]:
    """The networks in nested dictionaries and lists, averages as lists of tensors among them."""
    if not isinstance(content, Mapping):
        return
    flat = {
        INTERIOR.sub("", key): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    yield from _states(content, flat, place)
    for key, value in content.items():
        there = f"{place}.{key}".lstrip(".")
        if isinstance(value, list | tuple):
            tensors = [item for item in value if isinstance(item, Tensor)]
            if tensors and len(tensors) == len(value) and AVERAGE.search(_words(key)):
                yield Found(there, tensors, True, _is_updated(content))
            value = dict(enumerate(value))
        yield from networks(value, there)


def _states(content: Mapping[Any, Any], flat: State, place: str) -> Iterator[Found]:
    """The networks whose tensors lie side by side in one dictionary, each under its prefix."""
    signs = tuple(key_maps.SIGNATURE_KEYS.values())
    prefixes = [
        key.removesuffix(sign)
        for key in flat
        for sign in signs
        if key == sign or key.endswith(f".{sign}")
    ]
    averages = {prefix for prefix in prefixes if AVERAGE.search(_words(prefix))}
    counted = "n_averaged" in content
    outer = counted or bool(AVERAGE.search(_words(place)))
    for prefix in prefixes:
        there = ".".join(filter(None, (place, prefix.rstrip("."))))
        if not prefix:  # with all that stands beside it, so that this is named
            state: Any = {
                INTERIOR.sub("", key) if isinstance(key, str) else key: value
                for key, value in content.items()
            }
        else:
            state = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
        is_average = prefix in averages if averages else outer
        yield Found(there or "n_averaged" * counted, state, is_average, _is_updated(content))
        if prefix:
            yield from _without_dots(flat, prefix, state, place)


def _without_dots(flat: State, prefix: str, state: State, place: str) -> Iterator[Found]:
    """latent-diffusion's averages of a network: its names without dots, under another prefix."""
    words = prefix.split(".")[:-1]
    groups = {key.split(".")[0] for key in flat}
    for group in sorted(g for g in groups if AVERAGE.search(_words(g)) and g not in words):
        for i in range(len(words) + 1):
            head = f"{group}.{''.join(words[i:])}"
            names = {name: head + name.replace(".", "") for name in state}
            if all(other in flat for other in names.values()):
                there = ".".join(filter(None, (place, group)))
                updates = {c: flat.get(f"{group}.{c}", torch.tensor(1)) for c in COUNTERS}
                average = {name: flat[other] for name, other in names.items()}
                yield Found(there, average, True, _is_updated(updates))


def _is_updated(content: Mapping[Any, Any]) -> bool:
    """Whether the counter of an average, where there is one, is not at its beginning."""
    counts = [content[key] for key in COUNTERS if key in content]
    return all(bool(count) for count in counts if isinstance(count, int | Tensor))


def _sort(found: list[Found], name: str) -> tuple[list[Found], list[Found]]:
    """The averages and the last weights; the former under the latter's names where in a list."""
    last = [one for one in found if not one.is_average]
    averages = [one for one in found if one.is_average]
    outside = [one for one in last if not AVERAGE.search(_words(one.place))]
    last = outside or last
    named = []
    for one in averages:
        if isinstance(one.state, list):
            network = _one(last, name, "averages without the names of their parameters")
            keys = [key for key in network.by_name if key != "sigmas"]
            if len(keys) != len(one.state):
                raise CheckpointError(
                    f"{name} holds {len(one.state)} averages for {len(keys)} parameters: damaged?"
                )
            state = dict(zip(keys, one.state, strict=True))
            one = Found(one.place, state, True, one.is_updated)
        named.append(one)
    return named, last


def _one(found: list[Found], name: str, otherwise: str) -> Found:
    """The only one; CheckpointError that names them where there are several, or what is there."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(f"{name} holds {otherwise}")
    raise CheckpointError(
        f"{name} holds several networks ({', '.join(one.place for one in found)}): save the "
        "state_dict of the one that you mean alone, and load that file"
    )


def _only_state(content: dict) -> dict:
    """The one dictionary of tensors in a file without a known network, else all of it."""
    inner = [
        value
        for value in content.values()
        if isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values())
    ]
    return inner[0] if len(inner) == 1 else content


def _words(name: object) -> str:
    """A name with its words apart: EMACallback is ema_callback."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", str(name))
    return re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", text).lower()


def _listed(content: Mapping[Any, Any]) -> str:
    keys = [str(key) for key in content]
    return ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
