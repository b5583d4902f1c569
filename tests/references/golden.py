"""Outputs of the reference networks, kept in tests/golden/networks.safetensors.

    PYTHONPATH=tests python -m references.golden

writes them anew from the references alone, without this package's network: for each family the
small reference with the random parameters of `references.parameters`, float64, at the inputs of
`references.small`. The digits network has no upstream; its output is that of the `UNet` of
commit 0e9c25e, before the other families joined, which trained the published weights; the
command keeps it as it is.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file

from references.small import REFERENCE, inputs, state

FILE = Path(__file__).parents[1] / "golden" / "networks.safetensors"


def outputs() -> dict:
    """The first three outputs [4, 3, 16, 16] of each reference."""
    x, t = inputs(16)
    result = {family: f(state(family), x, t)[:, :3] for family, f in REFERENCE.items()}
    return {family: e.contiguous() for family, e in result.items()}


if __name__ == "__main__":
    kept = load_file(FILE)
    save_file({**outputs(), "digits_linear": kept["digits_linear"]}, FILE)
