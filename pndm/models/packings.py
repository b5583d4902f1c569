"""Packings: where the network is in a file's content, and which one is the moving average.

Training codes nest the weights under various keys, and wrappers add prefixes to every name. The
network is recognised by a key that every state_dict of it has; a moving average by the words in
the keys that lead to it.
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
"""A word in the name of a moving average, in lower case."""

TRAINING = re.compile(r"optim|(?<![a-z])opt(?![a-z])|epoch|step|iter|sched|scaler|callback|loops")
"""Keys that appear next to the last weights in a training checkpoint."""

INTERIOR = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""Infixes that torch.compile, FSDP and others add to names."""

COUNTERS = ("n_averaged", "initted", "num_updates", "optimization_step")
"""Update counters of averages: torch.optim.swa_utils, lucidrains, score-SDE, diffusers."""


@dataclass(frozen=True)
class Candidate:
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
    """Return the state_dict in a file's content, its format if known, and whether an average.

    `ema` chooses between last weights and their moving average. CheckpointError, in one line, if
    the requested one is missing or ambiguous.
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
    try:
        candidates = list(networks(_under_plain_keys(content)))
    except RecursionError:
        raise CheckpointError(
            f"{name} holds itself, or dictionaries nested too deeply: save only its tensors"
        ) from None
    if not candidates:
        return _only_state(content), packing, None
    for one in candidates:
        if not one.place and isinstance(one.state, dict):
            return one.state, packing, None
    averages, last = _sort(candidates, name)
    is_training = packing is not None or any(TRAINING.search(_words(key)) for key in content)
    if not ema:
        one = _one(last, name, "only an average: load that, without ema=False")
        return one.by_name, packing, False if averages or is_training else None
    if averages:
        one = _one(averages, name, "")
        if not one.is_updated:
            raise CheckpointError(
                f"{name}: the average in {one.place} was never updated, so it holds the initial "
                "weights of the training: train longer"
            )
        return one.by_name, packing, True
    one = _one(last, name, "")
    unread = [
        str(key)
        for key, value in content.items()
        if AVERAGE.search(_words(key)) and (value.numel() if isinstance(value, Tensor) else value)
    ]
    if unread:
        raise CheckpointError(
            f"{name} holds {', '.join(unread)}, but no average of all weights was found there: "
            "save only its tensors, with the network's keys, and load that file"
        )
    if is_training:
        raise CheckpointError(
            f"{name} holds no moving average, only last weights (its keys are "
            f"{_listed(content)}): load those with ema=False, or convert them with "
            "python -m pndm.models convert FILE --last"
        )
    return one.by_name, packing, None


def _under_plain_keys(content: dict) -> dict:
    """The content, with an average that a code saves as the main weights moved to `ema`.

    Lightning's WeightAveraging and mmengine's EMAHook do so, and move the last weights elsewhere.
    """
    for mark, last in (("current_model_state",) * 2, ("message_hub", "ema_state_dict")):
        if {mark, last, "state_dict"} <= content.keys():
            rest = {k: v for k, v in content.items() if k not in (last, "state_dict")}
            return {**rest, "model": content[last], "ema": content["state_dict"]}
    return content


def networks(content: Any, place: str = "") -> Iterator[Candidate]:
    """Yield the networks in nested dictionaries and lists, and averages as lists of tensors."""
    if not isinstance(content, Mapping):
        return
    flat = {
        INTERIOR.sub("", key): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    yield from _states(content, flat, place)
    for key, value in content.items():
        path = f"{place}.{key}".lstrip(".")
        if isinstance(value, list | tuple):
            tensors = [item for item in value if isinstance(item, Tensor)]
            if tensors and len(tensors) == len(value) and AVERAGE.search(_words(key)):
                yield Candidate(path, tensors, True, _is_updated(content))
            value = dict(enumerate(value))
        yield from networks(value, path)


def _states(content: Mapping[Any, Any], flat: State, place: str) -> Iterator[Candidate]:
    """The networks whose tensors are in one dictionary, each under its own prefix."""
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
        path = ".".join(filter(None, (place, prefix.rstrip("."))))
        if not prefix:  # with all other keys, so that errors name them
            state: Any = {
                INTERIOR.sub("", key) if isinstance(key, str) else key: value
                for key, value in content.items()
            }
        else:
            state = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
        is_average = prefix in averages if averages else outer
        yield Candidate(path or "n_averaged" * counted, state, is_average, _is_updated(content))
        if prefix:
            yield from _without_dots(flat, prefix, state, place)


def _without_dots(flat: State, prefix: str, state: State, place: str) -> Iterator[Candidate]:
    """latent-diffusion's averages of a network: its keys without dots, under another prefix."""
    words = prefix.split(".")[:-1]
    groups = {key.split(".")[0] for key in flat}
    for group in sorted(g for g in groups if AVERAGE.search(_words(g)) and g not in words):
        for i in range(len(words) + 1):
            head = f"{group}.{''.join(words[i:])}"
            names = {name: head + name.replace(".", "") for name in state}
            if all(other in flat for other in names.values()):
                path = ".".join(filter(None, (place, group)))
                updates = {c: flat.get(f"{group}.{c}", torch.tensor(1)) for c in COUNTERS}
                average = {name: flat[other] for name, other in names.items()}
                yield Candidate(path, average, True, _is_updated(updates))


def _is_updated(content: Mapping[Any, Any]) -> bool:
    """Whether the update counter of an average, if there is one, is not zero."""
    counts = [content[key] for key in COUNTERS if key in content]
    return all(
        bool(count)
        for count in counts
        if isinstance(count, int) or (isinstance(count, Tensor) and count.numel() == 1)
    )


def _sort(candidates: list[Candidate], name: str) -> tuple[list[Candidate], list[Candidate]]:
    """Split averages and last weights; an average in a list takes the keys of the last weights."""
    last = [one for one in candidates if not one.is_average]
    averages = [one for one in candidates if one.is_average]
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
            one = Candidate(one.place, state, True, one.is_updated)
        named.append(one)
    return named, last


def _one(candidates: list[Candidate], name: str, otherwise: str) -> Candidate:
    """Return the only candidate; CheckpointError if there are several, or none (`otherwise`)."""
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CheckpointError(f"{name} holds {otherwise}")
    raise CheckpointError(
        f"{name} holds several networks ({', '.join(one.place for one in candidates)}): save the "
        "state_dict of the one you need alone, and load that file"
    )


def _only_state(content: dict) -> dict:
    """The only dictionary of tensors in a file without a known network, else all content."""
    inner = [
        value
        for value in content.values()
        if isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values())
    ]
    return inner[0] if len(inner) == 1 else content


def _words(name: object) -> str:
    """A name in snake case: EMACallback is ema_callback."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", str(name))
    return re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", text).lower()


def _listed(content: Mapping[Any, Any]) -> str:
    keys = [str(key) for key in content]
    return ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
