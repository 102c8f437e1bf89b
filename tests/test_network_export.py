"""Networks come back from the forms of other programs as they went out; rows regulate columns."""

from __future__ import annotations

import dataclasses

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from network_world import network_judgement

from stormcell.report.folder import write_cells
from stormcell.report.network_export import decoupler, export, with_networks


@pytest.fixture(scope="module")
def judgement():
    return network_judgement()


def one_edge(judgement, **more):
    """The judgement with Gata1 → Klf1 of weight −2 in its first transition and no other edge."""
    edge = {"transition": judgement.transitions[0], "regulator": "Gata1", "target": "Klf1", "weight": -2.0, **more}
    return dataclasses.replace(judgement, tables=judgement.tables | {"edges": pd.DataFrame([edge])})


def test_one_asymmetric_edge_goes_from_its_regulator_to_its_target(judgement, tmp_path):
    alone = one_edge(judgement)
    graph, table = (path for path in export(alone, tmp_path))
    assert list(nx.read_graphml(graph).edges()) == [("Gata1", "Klf1")]
    assert pd.read_csv(table)[["source", "target", "weight"]].values.tolist() == [["Gata1", "Klf1", -2.0]]
    write_cells(with_networks(alone), tmp_path / "cells.h5ad")
    cells = ad.read_h5ad(tmp_path / "cells.h5ad")
    weights = pd.DataFrame(cells.varp[alone.transitions[0]].toarray(), cells.var_names, cells.var_names)
    assert weights.loc["Gata1", "Klf1"] == -2.0 and weights.loc["Klf1", "Gata1"] == 0
    assert np.count_nonzero(weights) == 1


def test_every_edge_comes_back_from_graphml(judgement, tmp_path):
    export(judgement, tmp_path)
    graph = nx.read_graphml(tmp_path / "network.graphml")
    assert graph.is_directed() and graph.is_multigraph()
    rows = [{"regulator": a, "target": b, **found} for a, b, found in graph.edges(data=True)]
    columns = ["transition", "regulator", "target", "weight", "low", "high", "fdr", "exported_sign", "disagrees"]
    keys = columns[:3]
    edges = judgement.table("edges")[columns].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(pd.DataFrame(rows)[columns].sort_values(keys, ignore_index=True), edges)


def test_graphml_has_no_number_that_others_cannot_read(judgement, tmp_path):
    export(one_edge(judgement, fdr=np.nan, low=-np.inf, disagrees=np.nan), tmp_path)
    ((_, _, found),) = nx.read_graphml(tmp_path / "network.graphml").edges(data=True)
    found.pop("id")
    assert found == {"transition": judgement.transitions[0], "weight": -2.0}


def test_every_edge_comes_back_from_varp(judgement, tmp_path):
    write_cells(with_networks(judgement), tmp_path / "cells.h5ad")
    cells = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert list(cells.uns["varp"]) == list(cells.uns["transitions"]) == judgement.transitions
    for name, edges in judgement.table("edges").groupby("transition"):
        matrix = cells.varp[name]
        assert matrix.format == "csr" and matrix.nnz == len(edges)
        rows, columns = (cells.var_names.get_indexer(edges[side]) for side in ("regulator", "target"))
        np.testing.assert_array_equal(np.asarray(matrix[rows, columns]).ravel(), edges["weight"])
    assert not judgement.adata.varp  # what was handed in is as it was


def test_networks_without_cells_of_expression_ride_on_those_of_the_picture(tmp_path):
    bare = network_judgement(bare=True)
    write_cells(with_networks(bare), tmp_path / "cells.h5ad")
    cells = ad.read_h5ad(tmp_path / "cells.h5ad")
    edges = bare.table("edges")
    assert set(cells.var_names) == {*edges["regulator"], *edges["target"]} and cells.n_obs == len(bare.points)
    np.testing.assert_array_equal(cells.obsm["X_picture"], bare.points[["x", "y"]])
    assert cells.varp[bare.transitions[0]].sum() == pytest.approx(edges.groupby("transition")["weight"].sum().iloc[0])


def test_names_of_transitions_that_h5ad_cannot_hold(judgement, tmp_path):
    ends = pd.DataFrame({"source": ["T/NK", "T_NK"], "target": ["B", "B"]})
    edges = pd.DataFrame(
        {"transition": ["T/NK>B", "T_NK>B"], "regulator": "Gata1", "target": "Klf1", "weight": [1.0, 2]}
    )
    slashed = dataclasses.replace(judgement, tables={"edges": edges, "transitions": ends})
    write_cells(with_networks(slashed), tmp_path / "cells.h5ad")
    cells = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert [cells.varp[key].sum() for key in cells.uns["varp"]] == [1.0, 2.0]
    assert list(cells.uns["transitions"]) == ["T/NK>B", "T_NK>B"]


def test_an_edge_of_weight_0_is_none(judgement, tmp_path):
    edges = judgement.table("edges").copy()
    edges.loc[:4, "weight"], edges.loc[5:9, "weight"] = 0.0, np.nan
    thin = dataclasses.replace(judgement, tables=judgement.tables | {"edges": edges})
    export(thin, tmp_path)
    assert nx.read_graphml(tmp_path / "network.graphml").number_of_edges() == len(edges) - 10
    assert len(decoupler(edges)) == len(edges) - 10
    assert with_networks(thin).varp[thin.transitions[0]].nnz == (edges["transition"] == thin.transitions[0]).sum() - 10


def test_decoupler_has_the_exported_sign_and_each_edge_once(judgement):
    edges = judgement.table("edges")
    table = decoupler(edges)
    np.testing.assert_array_equal(np.sign(table["weight"]), edges["exported_sign"])
    np.testing.assert_array_equal(table["weight"].abs(), edges["weight"].abs())
    assert (np.sign(edges["weight"]) != edges["exported_sign"]).any()  # else the test says nothing
    assert not table.duplicated(["transition", "source", "target"]).any()
    unknown = decoupler(edges.assign(exported_sign=0))
    np.testing.assert_array_equal(unknown["weight"], edges["weight"])


def test_a_gene_that_is_not_in_var_is_refused(judgement):
    lost = one_edge(judgement)
    edges = lost.table("edges").assign(target="Nobody")
    with pytest.raises(ValueError, match="not among the 60 of var"):
        with_networks(dataclasses.replace(lost, tables=lost.tables | {"edges": edges}))
