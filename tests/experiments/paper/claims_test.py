"""Claims: planted trends are found, trends of chance are not, verdicts follow their rule."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from experiments.reporting.documents import Cell, Column
from experiments.reporting.paper import claims, inconsistencies, ledger, published
from experiments.reporting.paper.contrasts import Contrast, all_hold, slope_weights
from experiments.reporting.paper.printed import printed
from experiments.reporting.paper.settings import scope

QUESTIONS, SETTINGS = 3, 3
PERCENT = Column("score", "score", 1, 1)
SLOPE = jnp.asarray(slope_weights([0.0, 0.5, 1.0]), jnp.float32)


@functools.partial(jax.jit, static_argnames=("trend", "number", "pictures"))
def p_values(key, trend, number, pictures=20):
    """Return the p-value of ECE's slope in made-up worlds, pictures alike over settings."""
    image = jnp.repeat(jnp.arange(pictures), QUESTIONS)

    def one(key):
        keys = jax.random.split(key, 5)
        picture = jax.random.normal(keys[0], (pictures,))[image]
        margin = 1 + picture + jax.random.normal(keys[1], image.shape)
        noise = jax.random.normal(keys[2], (SETTINGS, image.size)) / 2
        right = jax.random.uniform(keys[3], image.shape) < jax.nn.sigmoid(jnp.abs(margin))
        sharper = 1.3 + trend * jnp.arange(SETTINGS)[:, None]
        confidence = jax.nn.sigmoid(jnp.abs(margin[None, :] + noise) * sharper).ravel()
        correct = jnp.broadcast_to(right[None, :], noise.shape).ravel()

        def ece(weights):
            return calibration.expected_calibration_error(confidence, correct, weights)

        how = {"key": keys[4], "num_draws": 39}
        return calibration.exchange_test(ece, SLOPE, image, pictures, **how)

    return jax.lax.map(one, jax.random.split(key, number))


def test_a_trend_of_chance_is_found_as_often_as_the_level_says():
    found = np.asarray(p_values(jax.random.key(0), 0.0, 2000)) <= 0.05
    assert 0.033 <= found.mean() <= 0.067


def test_a_planted_trend_is_found():
    assert (np.asarray(p_values(jax.random.key(1), 3.0, 100, pictures=60)) <= 0.05).mean() > 0.9


def test_the_exchange_test_is_the_share_of_draws_that_are_as_large():
    """Four pictures, two settings: all 16 exchanges by hand."""
    values = jnp.array([3.0, 1, 2, 5, 1, 2, 1, 1])  # four of each setting

    def mean(weights):
        return jnp.sum(weights * values) / jnp.sum(weights)

    differences = np.asarray(values[:4] - values[4:])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    exact = (np.abs(differences @ signs) >= abs(differences.sum())).mean()
    found = calibration.exchange_test(
        mean, jnp.array([1.0, -1]), jnp.arange(4), 4, key=jax.random.key(2), num_draws=4000
    )
    assert float(found) == pytest.approx(exact, abs=0.03)


def test_no_draw_is_as_large_and_yet_p_is_not_zero():
    """Thirty pictures that all agree: the observed order itself counts as a draw."""
    values = jnp.concatenate([jnp.ones(30), jnp.zeros(30)])
    found = calibration.exchange_test(
        lambda weights: jnp.stack([jnp.sum(weights * values), jnp.nan]),
        *(jnp.array([1.0, -1]), jnp.arange(30), 30),
        key=jax.random.key(3),
        num_draws=99,
    )
    assert float(found[0]) == pytest.approx(1 / 100)
    assert np.isnan(found[1])


def test_the_slope_is_that_of_least_squares():
    x, y = [32.0, 64.0, 128.0, 192.0], [0.3, 0.1, 0.7, 0.2]
    assert slope_weights(x) @ y == pytest.approx(np.polyfit(x, y, 1)[0])
    with pytest.raises(ValueError, match="two different"):
        slope_weights([1.0, 1.0])


def contrast(value, p_value):
    return Contrast(value, value - 1, value + 1, p_value)


def test_several_sums_hold_as_well_as_the_weakest():
    assert all_hold([contrast(1, 0.01), contrast(2, 0.04)], 1) == 0.04
    assert all_hold([contrast(1, 0.01), contrast(-2, 0.001)], 1) == 1.0
    assert all_hold([contrast(-1, 0.01)], -1) == 0.01


@pytest.mark.parametrize(
    ("cell", "verdict"),
    [
        (Cell(0.0406, 0.03, 0.05, paper=0.041), ledger.REPRODUCED),
        (Cell(0.0404, 0.03, 0.05, paper=0.041), ledger.INSIDE),
        (Cell(0.02, 0.01, 0.0406, paper=0.041), ledger.INSIDE),  # 0.041 may be 0.0405
        (Cell(0.02, 0.01, 0.0404, paper=0.041), ledger.NOT),
        (Cell(0.02, paper=0.041), ledger.NOT),
        (Cell(paper=0.041), ledger.NOT_RUN),
    ],
)
def test_verdicts_of_numbers(cell, verdict):
    assert ledger.of_number(Column("ECE", "ece"), cell) == verdict


def test_a_number_is_as_coarse_as_it_is_printed():
    mme = Column("γ = 2", "γ = 2", 1, 0)
    assert ledger.of_number(mme, Cell(1700.0, 1680.0, 1718.6, paper=1719)) == ledger.INSIDE
    assert ledger.of_number(mme, Cell(1700.0, 1680.0, 1718.4, paper=1719)) == ledger.NOT
    accuracy = Column("accuracy %", "accuracy", 100, 1)
    assert ledger.of_number(accuracy, Cell(0.8, 0.79, 0.8686, paper=0.869)) == ledger.INSIDE
    assert ledger.of_number(accuracy, Cell(0.8, 0.79, 0.8684, paper=0.869)) == ledger.NOT


@pytest.mark.parametrize(
    ("sign", "value", "p_value", "paper", "verdict"),
    [
        (-1, -3, 0.01, -9, ledger.REPRODUCED),
        (-1, 3, 0.01, -9, ledger.NOT),
        (-1, -3, 0.2, -3.5, ledger.INSIDE),
        (-1, -3, 0.2, -9, ledger.NOT),
        (0, 3, 0.01, 3.5, ledger.INSIDE),
        (0, 3, 0.01, 0, ledger.NOT),
        (0, 3, 0.01, 4.1, ledger.INSIDE),  # 4.1 of two rounded numbers may be 4.0
        (0, 3, 0.01, 4.2, ledger.NOT),
    ],
)
def test_verdicts_of_trends(sign, value, p_value, paper, verdict):
    cell = Cell(value, value - 1, value + 1, paper=paper)
    assert ledger.of_trend(PERCENT, sign, [contrast(value, p_value)], cell) == verdict


def test_every_claim_is_about_numbers_that_the_paper_prints_and_has_their_sign():
    found = claims.all_claims()
    assert len({claim.says for claim in found}) == len(found) > 40
    for claim in found:
        paper = claim.paper()
        assert paper is not None, claim.says
        if claim.sign:
            assert np.sign(paper) == claim.sign, (claim.says, paper)


def test_the_papers_numbers_are_found_by_setting():
    assert printed("pope", "ece", scope(128)) == 0.024  # Table 1 before Tables 2 and 3
    assert printed("pope", "ece", scope(128, 0.0)) == 0.016
    assert printed("pope", "accuracy", {"pruner": "fastv", "budget": 128}) == 0.501
    assert printed("gamma/mme", "score", scope(64)) == 1698
    assert printed("pope", "ece", scope(33)) is None


def test_the_papers_inconsistencies_are_found():
    found = {check.says: check.verdict for check in inconsistencies.checks()}
    assert found["ece of default SCOPE at K = 64 is the same"] == "differs by 1 in the last place"
    assert found["accuracy of default SCOPE at K = 64 is the same"] == inconsistencies.HOLDS
    assert found["ECE ≥ |overconfidence| (random, K = 64)"] == inconsistencies.ROUNDING
    says = "confidence − accuracy = overconfidence (K = 192)"
    assert found[says] == "differs by 1 in the last place"
    assert inconsistencies.BROKEN not in found.values()


def test_a_changed_table_of_the_paper_breaks_a_check(monkeypatch):
    rows = [dict(row) for row in published.table("table3_pope_baselines")]
    rows[0]["overconfidence"] = 0.06
    monkeypatch.setattr(
        published, "table", lambda name, real=published.table: rows if "3" in name else real(name)
    )
    broken = [c for c in inconsistencies.checks() if c.verdict == inconsistencies.BROKEN]
    assert [dataclasses.astuple(check)[2:4] for check in broken] == [(0.041, 0.06)]
