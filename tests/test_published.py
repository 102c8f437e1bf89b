"""Numbers that others measured on the same cells of Norman et al. 2019 come out here too."""

from functools import partial

import numpy as np
import pytest

from stormcell.config import DataConfig
from stormcell.data import split, targets
from stormcell.data.screen import Screen
from stormcell.evaluation.baselines import Shifts
from stormcell.evaluation.heldout import Query
from stormcell.evaluation.profiles import l2, mean_profile, pearson

PAIRS = ("KLF1+MAP2K6", "KLF1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2")
DOMINATING = ("HBZ", "HBG2", "TMSB4X", "H4C3")
RULE = partial(split.held_out_combinations, share=1.0, singles_seen=2, validation=0.0, controls_for_truth=0.0)


@pytest.fixture(scope="module")
def screen(shared_data):
    """The five pairs held out whole; every other cell and all controls train."""
    path = shared_data("norman2019_k562_34perts.h5ad")
    found = Screen(DataConfig(name="norman", path=str(path), library_key="total_counts"), partial(RULE, test_cells=0.0))
    found.setup()
    assert tuple(found.split.groups) == PAIRS
    return found


def truth(screen, pair):
    return mean_profile(screen.expression[screen.condition == pair])


def said(screen, method, pair):
    train = screen.reference.train
    return getattr(Shifts(train, screen.embedding, train.controls), method)(Query(pair, "all", "", None))


def test_the_additive_baseline_with_shared_controls(screen):
    control = screen.reference.train.controls["all"]
    rest = ~np.isin(screen.spec.genes, DOMINATING)
    for genes, expected in (
        (np.ones(len(rest), bool), [0.98, 0.99, 0.73, 0.71, 0.95]),
        (rest, [0.72, 0.60, 0.81, 0.79, 0.82]),
    ):
        found = [
            pearson((truth(screen, pair) - control)[genes], said(screen, "additive", pair)[genes]) for pair in PAIRS
        ]
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_the_additive_baseline_with_controls_of_their_own(screen):
    """Means over 100 draws of 50 + 50 controls; the standard error of a mean is about .012 to .025."""
    cells = screen.expression[screen.control_rows("all")]
    single = {t: mean_profile(screen.expression[screen.condition == t]) for pair in PAIRS for t in pair.split("+")}
    rest, rng, draws = ~np.isin(screen.spec.genes, DOMINATING), np.random.default_rng(0), []
    for _ in range(100):
        order = rng.permutation(cells.shape[0])
        one, other = mean_profile(cells[order[:50]]), mean_profile(cells[order[50:]])
        predicted = [sum(single[t] for t in pair.split("+")) - 2 * one for pair in PAIRS]
        shifts = zip(PAIRS, predicted, strict=True)
        draws.append(
            [
                (pearson(truth(screen, p) - other, y), pearson((truth(screen, p) - other)[rest], y[rest]))
                for p, y in shifts
            ]
        )
    everything, without = np.mean(draws, axis=0).T
    np.testing.assert_allclose(everything, [0.91, 0.94, 0.33, 0.26, 0.85], atol=0.07)
    np.testing.assert_allclose(without, [0.17, 0.12, 0.29, 0.30, 0.49], atol=0.05)
    assert (np.array([0.72, 0.60, 0.81, 0.79, 0.82]) - without > 0.25).all(), "sharing controls flatters every pair"


def test_the_linear_model_on_a_column_for_each_target(screen):
    control, mean = screen.reference.train.controls["all"], screen.reference.train.mean_shift
    rows = []
    for pair in PAIRS:
        x, y = truth(screen, pair) - control, said(screen, "lgem", pair)
        rows.append((pearson(x, y), pearson(x - mean, y - mean), l2(x, y)))
    r, beyond, distance = np.median(rows, axis=0)
    assert r == pytest.approx(0.96, abs=0.01)
    assert beyond == pytest.approx(0.93, abs=0.015)
    assert distance == pytest.approx(0.63, abs=0.05)


def test_gene_rows_are_refused_where_one_target_is_a_measured_gene(screen):
    from stormcell.config import UserError

    wanted = sorted({t for c in set(screen.condition) - {"control"} for t in c.split("+")})
    with pytest.raises(UserError, match=r"only 1 of 31 targets"):
        targets.gene_row(screen.spec, screen.reference.train, wanted)
