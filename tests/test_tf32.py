"""TF32 where it is asked for, IEEE float32 elsewhere, and torch's settings as they were."""

import contextlib

import pytest
import torch

from pndm._tf32 import tf32
from pndm.evaluation.features import load_extractor
from pndm.models.architectures import Architecture
from pndm.models.unet import UNet
from pndm.runs.network import Runner

backends = torch.backends
newer = pytest.mark.skipif(not hasattr(backends.cudnn, "conv"), reason="torch before 2.9")
TINY = Architecture(
    8, in_channels=1, channels=8, channel_mult=(1,), blocks=1, attention=(), norm_groups=4
)

READERS = {
    "all": lambda: backends.fp32_precision,
    "matmul": lambda: backends.cuda.matmul.fp32_precision,
    "conv": lambda: backends.cudnn.conv.fp32_precision,
    "rnn": lambda: backends.cudnn.rnn.fp32_precision,
    "cudnn": lambda: backends.cudnn.fp32_precision,
    "cpu matmul": lambda: backends.mkldnn.matmul.fp32_precision,
    "cpu conv": lambda: backends.mkldnn.conv.fp32_precision,
    "old matmul": lambda: backends.cuda.matmul.allow_tf32,
    "old conv": lambda: backends.cudnn.allow_tf32,
    "float32_matmul_precision": torch.get_float32_matmul_precision,
}


def settings():
    """All that torch says of it; an error is an answer too."""
    values = {}
    for name, read in READERS.items():
        try:
            values[name] = read()
        except (RuntimeError, AttributeError):
            values[name] = "error"
    return values


def conv_with_newer(value):
    backends.cudnn.conv.fp32_precision = value


def matmul_with_newer(value):
    backends.cuda.matmul.fp32_precision = value


def everything(value):
    backends.fp32_precision = value


USERS = {
    "nothing": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "older": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
    "older conv": lambda: setattr(backends.cudnn, "allow_tf32", False),
    "everything": lambda: everything("tf32"),
    "newer": lambda: matmul_with_newer("tf32"),
    "mixed": lambda: (torch.set_float32_matmul_precision("high"), matmul_with_newer("ieee")),
    "mixed conv": lambda: conv_with_newer("ieee"),
}


@pytest.fixture(autouse=True)
def as_it_was():
    before = settings()
    yield
    with contextlib.suppress(AttributeError):
        backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = False, True
    with contextlib.suppress(AttributeError):
        backends.cuda.matmul.fp32_precision = "none"
        backends.mkldnn.matmul.fp32_precision = "none"
    assert settings() == before


def is_tf32():
    """What holds by both interfaces, which agree."""
    values = settings()
    assert values["old matmul"] is values["old conv"]
    if hasattr(backends.cudnn, "conv"):
        word = "tf32" if values["old conv"] else "ieee"
        assert values["matmul"] == values["conv"] == values["rnn"] == word
    return values["old conv"]


@newer
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("allowed", [True, False])
def test_it_holds_in_the_block_whatever_a_user_set(user, allowed):
    USERS[user]()
    before = settings()
    with pytest.raises(ZeroDivisionError), tf32(allowed):
        assert is_tf32() is allowed
        with tf32(not allowed):
            assert is_tf32() is not allowed
        assert is_tf32() is allowed
        1 / 0  # noqa: B018
    after = settings()
    assert {name: after[name] for name in before if before[name] != "error"} == {
        name: value for name, value in before.items() if value != "error"
    }


@torch.no_grad()
def test_each_network_has_its_own_on_a_gpu(monkeypatch):
    """Neither a later network nor torch's own settings change an earlier one."""
    seen = []
    runners = {
        name: Runner(UNet(TINY).eval(), torch.device("cpu"), name)
        for name in ("tf32", "fp32", "bf16")
    }
    for runner in runners.values():
        runner.device = torch.device("cuda")  # the tensors stay where they are
        runner.network.register_forward_pre_hook(lambda *_: seen.append(is_tf32()))
    torch.set_float32_matmul_precision("high")
    before = settings()
    for name in ("tf32", "fp32", "tf32", "bf16"):
        runners[name](torch.zeros(2, 1, 8, 8), torch.zeros(2))
    assert seen == [True, False, True, False] and settings() == before


def test_features_are_never_of_tf32():
    seen, extractor = [], load_extractor("digits")
    hook = extractor.network.register_forward_pre_hook(
        lambda *_: seen.append((is_tf32(), backends.cudnn.deterministic))
    )
    torch.set_float32_matmul_precision("high")
    with contextlib.suppress(AttributeError):
        backends.cudnn.conv.fp32_precision = "ieee"  # cuDNN's own flags() would raise now
    before = settings(), backends.cudnn.deterministic
    extractor(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    hook.remove()
    assert seen == [(False, True)] and (settings(), backends.cudnn.deterministic) == before
