"""Agreement with a network that was not the mask: the right edges are compared, and each row has the signs it says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import identity

from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import moments, solve
from stormcell.analysis.plan import Coupling
from stormcell.config import DataConfig, UserError
from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
from stormcell.data.prior import FilePrior, Prior
from stormcell.data.split_clusters import held_out_in_clusters
from stormcell.judge_known import CONDITIONAL, PLUS, aligned, known_rows

REGULATOR, TARGET = np.array([0, 1, 2, 0, 1, 2]), np.array([3, 3, 4, 5, 5, 6])
SIGN = np.array([1, -1, 1, -1, 1, -1])
OURS = Mask.of(7, REGULATOR, TARGET)


@pytest.fixture
def world():
    """One transition of 400 known pairs, y = x W with the signs SIGN."""
    rng = np.random.default_rng(3)
    signs = np.zeros((7, 7))
    signs[REGULATOR, TARGET] = SIGN
    x = rng.normal(size=(400, 7))
    y = x @ signs + 0.1 * rng.normal(size=(400, 7))
    coupling = Coupling.of(identity(400, format="csr") / 400, "oracle")
    sides = Sides(x, y, coupling, (np.arange(400), 400 + np.arange(400)))
    return [sides], np.concatenate([x, y])


def judged(world, known: Mask | None):
    train, values = world
    sides = train[0]
    weights = solve(moments(sides.x, sides.y, sides.coupling, OURS.regulators), OURS, 1e-3).values
    model = SimpleNamespace(mask=OURS, weights=lambda t: weights)
    prior = None if known is None else Prior(known, [], "known")
    data = SimpleNamespace(spec=SimpleNamespace(n_transitions=len(train)), known=prior, values=values)
    others = {"random pairs": np.zeros((1, OURS.n_edges)), "reversed": -weights[None]}
    return known_rows(model, data, train, "transition", others, "random pairs")


def test_true_signs_agree_and_reversed_ones_do_not(world):
    board = judged(world, Mask.of(7, REGULATOR, TARGET, SIGN)).set_index("method")
    assert board.loc[["transition", CONDITIONAL], "sign_agreement"].eq(1).all()
    assert board.loc["reversed", "sign_agreement"] == board.loc["reversed", "balanced_sign_agreement"] == 0
    assert board.loc[PLUS, ["sign_agreement", "balanced_sign_agreement"]].eq(0.5).all()
    assert board["n"].eq(6).all() and board["group"].eq("known network").all()


def test_a_network_of_opposite_direction_shares_no_edge(world):
    assert not len(judged(world, Mask.of(7, TARGET, REGULATOR, SIGN)))
    assert not len(judged(world, None))


def test_edges_of_regulators_that_the_known_network_lacks_are_not_asked(world):
    """Of regulator 0 the known network has 0 → 3 and not 0 → 5; of 1 and 2 nothing, so that two edges are ranked."""
    sign, present, asked = aligned(OURS, Mask.of(7, [0, 6], [3, 0], [-1, 1]))
    edges = list(zip(OURS.regulator.tolist(), OURS.target.tolist(), strict=True))
    assert [edges[e] for e in np.flatnonzero(asked)] == [(0, 3), (0, 5)]
    assert [edges[e] for e in np.flatnonzero(present)] == [(0, 3)]
    assert sign.tolist() == [-1 if edge == (0, 3) else 0 for edge in edges]
    with pytest.raises(ValueError, match="over 8"):
        aligned(OURS, Mask.of(8, [0], [3]))


def test_edges_of_unknown_sign_are_ranked_but_have_no_say_in_the_signs(world):
    board = judged(world, Mask.of(7, REGULATOR[:3], TARGET[:3], [0, 1, 1])).set_index("method")
    assert board.loc["transition", "n"] == 2
    assert board.loc["transition", "sign_agreement"] == 0.5  # of 1 ⊣ 3 and 2 → 4, both said to activate
    assert np.isfinite(board.loc["transition", "rank_agreement"]) and np.isnan(board.loc[PLUS, "rank_agreement"])


def test_random_pairs_have_the_signs_of_the_means_alone(world):
    """In a second transition the means of 0 and 3 move against each other, by less than what the pairs say: + of 1,
    − of .25 · 1 · .5 in the covariance of 0 and 3."""
    (sides,), values = world
    moved = Sides(sides.x + np.eye(7)[0], sides.y - np.eye(7)[3] / 2, sides.coupling, sides.rows)
    board = judged(([sides, moved], values), Mask.of(7, REGULATOR[:1], TARGET[:1], SIGN[:1])).set_index("method")
    assert board.loc["transition", "sign_agreement"] == 1
    assert board.loc["random pairs", "sign_agreement"] == 0


def test_a_known_network_of_another_species_is_refused_by_its_key(shared_data, tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("tf,target,mor\nENSG1,ENSG2,1\n")
    config = DataConfig(
        path=str(shared_data("paul2015_myeloid.h5ad")), perturbation_key=None, cluster_key="cluster",
        pseudotime_key="monocle_pseudotime", transitions=["7MEP>6Ery"],
    )  # fmt: skip
    config.genes.top = 100
    data = ClusterMappingDataModule(config, held_out_in_clusters, known=FilePrior(str(path)))
    with pytest.raises(UserError, match=r"datamodule\.known: known\.csv.*ENSG1"):
        data.setup()
