"""Our energy distances on real cells: an independent implementation, and the order of a published table."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import pairwise_distances

from stormcell.config import DataConfig
from stormcell.data.cells import read
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.reference import principal_components
from stormcell.evaluation.distributions import energy_distance


@pytest.fixture(scope="module")
def coordinates(shared_data):
    """label → n × 50 principal coordinates of the cells of Norman et al. 2019."""
    path = shared_data("norman2019_k562_34perts.h5ad")
    cells = read(DataConfig(name="norman", path=str(path), library_key="total_counts"))
    X = cells.X.copy()
    X.data = row_normalise_log1p(cells.X, cells.obs["library"].to_numpy())
    mean, components = principal_components(X)
    projected = np.asarray(X @ components) - mean @ components
    labels = cells.obs["condition"].to_numpy(str)
    return {label: projected[labels == label] for label in np.unique(labels)}


def test_it_agrees_with_an_independent_implementation(coordinates):
    control = coordinates["control"]
    for label, cells in coordinates.items():
        if label == "control":
            continue
        n, m = len(cells), len(control)
        both = pairwise_distances(np.vstack([cells, control]).astype(float))
        within = both[:n, :n].sum() / (n * (n - 1)) + both[n:, n:].sum() / (m * (m - 1))
        assert energy_distance(cells, control) == pytest.approx(2 * both[:n, n:].mean() - within, abs=1e-8)


def test_perturbations_are_ordered_as_in_the_published_table(coordinates, shared_data):
    """Other cells and other genes there: the order by distance to control is what the two can share."""
    table = pd.read_csv(shared_data("norman2019_pairwise_edist.csv.gz"), index_col=0)
    named = {"+".join(sorted(str(name).replace("_", "+").split("+"))): name for name in table.index}
    shared = sorted(set(named) & set(coordinates) - {"control"})
    assert len(shared) == 32
    ours = [energy_distance(coordinates[label], coordinates["control"]) for label in shared]
    published = [table.loc[named[label], named["control"]] for label in shared]
    assert spearmanr(ours, published).statistic >= 0.65
    print(f"Spearman {spearmanr(ours, published).statistic:.3f} over {len(shared)} perturbations")
