"""The student: a multistep method whose times, weights and clock are differentiable."""

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pndm._errors import InputError
from pndm.execute import Denoiser
from pndm.learned import PARTS, Learned
from pndm.plans import Plan, to_learned
from pndm.prediction import Prediction, as_noise
from pndm.schedules import Node, Schedule

MIN_START = 1e-3
"""The smallest gap of a start, as a share of the interval: a softmax has no 0."""

MIN_GAP = 1e-9
"""The smallest gap that is learned: none rounds to 0, so that the times always descend."""


class Student(nn.Module):
    """x̃_{i+1} = x̃_i + (ρ_{i+1} − ρ_i)·Σ_{j≤i} w_ij·e_j, e_j = network(x_j, t_j + offset_j).

    It starts from the numbers of a plan (see `pndm.plans.to_learned`). Those in `learn` are
    parameters, the others constants: `logits` [N+1] of the gaps between T−1, t_0 … t_{N−1} and 0
    (or the end, where that is above 0), `weights` [N, N] lower triangular, `offsets` [N], all
    float64 and on the CPU. Gaps are a softmax of the logits, so the times always descend. Weights
    that are not learned stay what they are when the times move. With `recompute` the evaluations
    are made again in the backward pass instead of being kept. InputError for a plan of another
    method, and for unknown parts.
    """

    def __init__(
        self,
        start: Plan,
        schedule: Schedule,
        learn: Collection[str] = PARTS,
        prediction: Prediction = "noise",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        unknown = sorted(set(learn) - set(PARTS))
        if unknown:
            raise InputError(f"learn={','.join(unknown)}: there are {', '.join(PARTS)}")
        if "times" in learn and schedule.convention == "released":
            raise InputError("the released convention truncates times: learn weights or clock")
        self.schedule, self.prediction, self.recompute = schedule, prediction, recompute
        self.table = to_learned(start, start.solver.name, prediction)
        self.end = self.table.nodes[-1]
        times = torch.tensor([node.time for node in self.table.nodes[:-1]], dtype=torch.float64)
        told = torch.tensor(self.table.times, dtype=torch.float64)
        weights = torch.zeros(len(times), len(times), dtype=torch.float64)
        for i, row in enumerate(self.table.weights):
            weights[i, : i + 1] = torch.tensor(row, dtype=torch.float64)
        self.low, self.high = max(self.end.time, 0.0), float(schedule.timesteps - 1)
        self.fixed_times = times
        ends = times.new_tensor([self.high]), times.new_tensor([self.low])
        gaps = -torch.diff(times, prepend=ends[0], append=ends[1])
        logits = gaps.clamp(min=MIN_START * (self.high - self.low)).log()
        self.learn = frozenset(learn)
        self.logits = nn.Parameter(logits, requires_grad="times" in learn)
        self.weights = nn.Parameter(weights, requires_grad="weights" in learn)
        self.offsets = nn.Parameter(told - times, requires_grad="clock" in learn)

    def part(self, name: str) -> nn.Parameter:
        """The numbers of a part in PARTS."""
        return {"times": self.logits, "weights": self.weights, "clock": self.offsets}[name]

    @property
    def times(self) -> Tensor:
        """t_0 > … > t_{N−1}, [N] float64."""
        if "times" not in self.learn:
            return self.fixed_times
        share = MIN_GAP + (1 - len(self.logits) * MIN_GAP) * self.logits.softmax(0)
        return self.high - (self.high - self.low) * share.cumsum(0)[:-1]

    @property
    def network_times(self) -> Tensor:
        """The times that the network is given, [N] float64, inside those that it knows."""
        return (self.times + self.offsets).clamp(0.0, self.high)

    def forward(self, network: Denoiser, x_T: Tensor) -> Tensor:
        """The images x_0 [B, ...] in the dtype of x_T [B, ...], differentiable."""
        times = self.times
        dtype = torch.promote_types(x_T.dtype, torch.float32)
        network_times = self.network_times.to(x_T.device, dtype)
        alphas = [alpha_bar(self.schedule, t) for t in times]
        alphas.append(torch.tensor(self.end.alpha_bar, dtype=torch.float64))
        x, evaluations = x_T, []
        for i, (a, b) in enumerate(pairwise(alphas)):
            t = network_times[i].expand(len(x_T))
            if self.recompute:
                output = checkpoint(network, x, t, use_reentrant=False)
            else:
                output = network(x, t)
            if self.prediction != "noise":
                p, q = as_noise(self.prediction, a)
                output = p * x + q * output
            evaluations.append(output)
            direction = sum(w * e for w, e in zip(self.weights[i], evaluations, strict=False))
            scale, gain = phi(a, b)
            x = scale * x + gain * direction
        return x

    @torch.no_grad()
    def to_learned(self) -> Learned:
        """The numbers as they are now."""
        nodes = [self.schedule.node(t) for t in self.times.tolist()]
        rows = (tuple(row[: i + 1]) for i, row in enumerate(self.weights.tolist()))
        return Learned(
            self.table.name,
            (*(Node(t, a, 0.0) for t, a, _ in nodes), self.end),
            tuple(self.network_times.tolist()),
            tuple(rows),
            self.prediction,
        )


def alpha_bar(schedule: Schedule, t: Tensor) -> Tensor:
    """ᾱ(t) as plans have it, with the slope dᾱ/dt = ᾱ·d log ᾱ/dt; t [] float64."""
    node = schedule.node(t.item())
    return node.alpha_bar * (1 + node.slope * (t - t.detach()))


def phi(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The (A, B) of `pndm.solvers.transfer.phi`, of tensors."""
    mixed = (1 - b).sqrt() * a.sqrt() + (1 - a).sqrt() * b.sqrt()  # finite gradients at b = 1
    return (b / a).sqrt(), (a - b) / (a.sqrt() * mixed)
