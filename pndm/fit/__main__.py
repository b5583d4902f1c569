"""Fit a plan to a network.

    python -m pndm.fit dataset=digits schedule=linear solver=ipndm steps=5 grid=quadratic

The fit starts from the plan of a multistep method and learns its times, its weights and the times
that the network is given (`learn=times,weights,clock`), so that its images become those of a fine
solution. The result, plan.json, is run by `python run.py plan=FILE`. See conf/fit.yaml.
"""

import sys

from pndm._errors import one_line_exit, prepare_console
from pndm.config.compose import compose_fit


def main(words: list[str]) -> None:
    """Refuse what cannot be fitted in one line; Ctrl-C loses nothing since the checkpoint."""
    prepare_console()
    if {"-h", "--help"} & set(words):
        return print(__doc__)
    with one_line_exit("the same command continues from the last checkpoint"):
        cfg = compose_fit(words)
        from pndm import plans
        from pndm.fit.loop import fit

        path = fit(cfg)
        print(plans.load(path))
        print(f"plan: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
