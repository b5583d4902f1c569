"""The strip at the top of the README."""

import torch

from experiments import strip


def test_no_method_takes_more_evaluations_than_its_column_says():
    steps = {
        (solver, n): strip.most_steps(solver, n) for solver in ("ddim", "plms") for n in (10, 50)
    }
    assert steps == {("ddim", 10): 10, ("ddim", 50): 50, ("plms", 10): 3, ("plms", 50): 41}


def test_a_cell_shows_images_above_their_errors():
    black, none = torch.full((3, 1, 8, 8), -1.0), torch.zeros(3, 1, 8, 8)
    picture = strip.picture(black, none)
    assert picture.shape == (8 + 1 + 8, 3 * 8 + 2, 3)
    assert (picture[:8, :8] == 0).all() and (picture[8] == 1).all()
    assert (picture[9:, :8] > 0.9).all()  # no difference is nearly white
