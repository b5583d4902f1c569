"""Gradient parts: order conditions in exact fractions, and tableaux that check themselves."""

from dataclasses import replace
from fractions import Fraction

import pytest

from pndm.solvers import gradient
from pndm.solvers.gradient import AB2, AB3, AB4, EULER, IMPROVED_EULER, RK4, RK4_RHO, Gradient

PARTS = [value for value in vars(gradient).values() if isinstance(value, Gradient)]
SINGLE = [part for part in PARTS if part.stages == 1]
STAGED = [part for part in PARTS if part.stages > 1]
ORDER = {EULER: 1, AB2: 2, AB3: 3, AB4: 4, IMPROVED_EULER: 2, RK4: 4, RK4_RHO: 4}


def exact(number: float) -> Fraction:
    return Fraction(number).limit_denominator(1000)


def names(part: Gradient) -> str:
    return part.name


@pytest.mark.parametrize("part", SINGLE, ids=names)
def test_multistep_weights_integrate_polynomials(part):
    """Σ w_j·(−j)^k = ∫₀¹ s^k ds for every k below the number of weights, and not for the next."""
    weights = [exact(w) for w in (*part.b, *part.past)]
    for k in range(len(weights) + 1):
        moment = sum(w * Fraction(-j) ** k for j, w in enumerate(weights))
        assert (moment == Fraction(1, k + 1)) == (k < len(weights))


@pytest.mark.parametrize("part", STAGED, ids=names)
def test_runge_kutta_conditions(part):
    """Butcher's conditions, by rooted trees of up to four nodes; the next order's must fail."""
    b, c = [exact(w) for w in part.b], [exact(w) for w in part.c]
    a = [[exact(w) for w in row] for row in part.a]
    stages = range(part.stages)

    def total(term):
        return sum(b[i] * term(i) for i in stages)

    def inner(i, term):
        return sum(a[i][j] * term(j) for j in range(i))

    conditions = {
        1: [total(lambda i: 1) == 1],
        2: [total(lambda i: c[i]) == Fraction(1, 2)],
        3: [
            total(lambda i: c[i] ** 2) == Fraction(1, 3),
            total(lambda i: inner(i, lambda j: c[j])) == Fraction(1, 6),
        ],
        4: [
            total(lambda i: c[i] ** 3) == Fraction(1, 4),
            total(lambda i: c[i] * inner(i, lambda j: c[j])) == Fraction(1, 8),
            total(lambda i: inner(i, lambda j: c[j] ** 2)) == Fraction(1, 12),
            total(lambda i: inner(i, lambda j: inner(j, lambda k: c[k]))) == Fraction(1, 24),
        ],
    }
    order = ORDER.get(part, 1)
    assert all(all(conditions[k]) for k in range(1, order + 1))
    assert order == 4 or not all(conditions[order + 1])


def test_the_papers_weights():
    assert [w * 24 for w in (*AB4.b, *AB4.past)] == pytest.approx([55, -59, 37, -9], abs=1e-13)
    assert [w * 2 for w in (*AB2.b, *AB2.past)] == [3, -1]
    assert [w * 6 for w in RK4.b] == pytest.approx([1, 2, 2, 1], abs=1e-15)
    assert RK4.c == (0, 0.5, 0.5, 1)


def mistyped():
    """Every entry of every part, off by 1e-3, one at a time; and with its sign flipped."""
    for part in PARTS:
        for field in ("b", "past", "c"):
            row = getattr(part, field)
            for i, value in enumerate(row):
                for wrong in {value + 1e-3, value - 1e-3, -value if value else value + 1e-3}:
                    yield part, {field: (*row[:i], wrong, *row[i + 1 :])}
        for j, row in enumerate(part.a):
            for i, value in enumerate(row):
                wrong = (*row[:i], value + 1e-3, *row[i + 1 :])
                yield part, {"a": (*part.a[:j], wrong, *part.a[j + 1 :])}


@pytest.mark.parametrize(
    ("part", "change"),
    list(mistyped()),
    ids=lambda x: x.name if isinstance(x, Gradient) else str(x),
)
def test_a_mistyped_coefficient_cannot_be_made(part, change):
    with pytest.raises(ValueError, match=part.name):
        replace(part, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"c": (0.0, 0.5, 0.5)},
        {"a": ((), (0.5,), (0.0, 0.5))},
        {"a": ((), (0.5,), (0.0, 0.5, 0.0), (0.0, 0.0, 1.0))},
        {"b": (0.5, 0.5)},
        {"c": (0.0, 0.0, 0.5, 1.0), "a": ((), (0.0,), (0.0, 0.5), (0.0, 0.0, 1.0))},
        {"c": (0.0, 0.5, 0.5, 1.5), "a": ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.5))},
        {"c": (0.0, 0.5, 0.5, -1.0), "a": ((), (0.5,), (0.0, 0.5), (0.0, 0.0, -1.0))},
    ],
)
def test_a_tableau_of_the_wrong_form_cannot_be_made(change):
    with pytest.raises(ValueError, match="Runge-Kutta 4"):
        replace(RK4, **change)


def test_stages():
    assert [part.stages for part in (EULER, AB4, IMPROVED_EULER, RK4)] == [1, 1, 2, 4]
