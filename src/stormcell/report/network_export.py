"""The networks in the forms of other programs: GraphML (Cytoscape, igraph), decoupler's table, AnnData varp.

Rows regulate columns: varp[key][i, j] is the weight of var_names[i] on var_names[j].

Shapes: G genes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from stormcell.report.network_judgement import NetworkJudgement

# Columns of the edges that ride in GraphML, where they are known.
ATTRIBUTES = (
    "weight", "weight_natural", "low", "high", "sign_stability", "fdr", "marginal", "exported_sign", "disagrees",
)  # fmt: skip


def export(judgement: NetworkJudgement, folder: Path) -> list[Path]:
    """network.graphml and tables/decoupler.csv; returns their paths."""
    edges = judgement.table("edges")
    paths = [folder / "network.graphml", folder / "tables" / "decoupler.csv"]
    paths[1].parent.mkdir(parents=True, exist_ok=True)
    write_graphml(edges, paths[0])
    decoupler(edges).to_csv(paths[1], index=False)
    return paths


def write_graphml(edges: pd.DataFrame, path: Path) -> None:
    """One directed graph with an edge per transition, which each edge names; edges of weight 0 are none.

    What is not finite is left out, since not every reader of GraphML knows it.
    """
    import networkx as nx

    edges = _present(edges)
    graph = nx.MultiDiGraph()
    columns = [name for name in ATTRIBUTES if name in edges]
    for name in sorted({*edges["regulator"].astype(str), *edges["target"].astype(str)}):
        graph.add_node(name, label=name)
    values = {name: edges[name].to_numpy() for name in columns}
    for row, (transition, source, target) in enumerate(
        zip(*(edges[name].astype(str) for name in ("transition", "regulator", "target")), strict=True)
    ):
        attributes = {name: _plain(name, column[row]) for name, column in values.items()}
        kept = {name: value for name, value in attributes.items() if value is not None}
        graph.add_edge(source, target, key=row, transition=transition, **kept)
    nx.write_graphml(graph, path)


def _plain(name: str, value) -> float | bool | None:
    """A plain value of GraphML; None where there is none."""
    if name == "disagrees":
        return None if pd.isna(value) else bool(value)
    return float(value) if np.isfinite(value) else None


def decoupler(edges: pd.DataFrame) -> pd.DataFrame:
    """source, target, weight, transition; the absolute weight with the exported sign, the weight where none is told."""
    edges = _present(edges)
    weight = edges["weight"].astype(float)
    if "exported_sign" in edges:
        sign = edges["exported_sign"].astype(float).replace(0, np.nan)
        weight = (weight.abs() * sign).where(sign.notna(), weight)
    columns = {"source": edges["regulator"], "target": edges["target"], "weight": weight}
    return pd.DataFrame({**columns, "transition": edges["transition"]}).reset_index(drop=True)


def with_networks(judgement: NetworkJudgement) -> AnnData:
    """The cells of the judgement, or those of its picture without expression, and varp[transition]: G × G CSR.

    A `/` in the name of a transition is `_`, as h5ad needs it. Raises ValueError for a gene that is not in var.
    """
    edges, adata = _present(judgement.table("edges")), judgement.adata
    if adata is None:
        genes = sorted({*edges["regulator"].astype(str), *edges["target"].astype(str)})
        obs = judgement.points.drop(columns=["x", "y"], errors="ignore")
        places = judgement.points.reindex(columns=["x", "y"]).to_numpy(float)
        adata = AnnData(obs=obs, var=pd.DataFrame(index=genes), obsm={"X_picture": places})
    else:
        adata = adata.copy()
    place = pd.Series(np.arange(adata.n_vars), index=adata.var_names.astype(str))
    for key, transition in zip(_keys(judgement.transitions), judgement.transitions, strict=True):
        mine = edges[edges["transition"].astype(str) == transition]
        ends = [place.reindex(mine[side].astype(str)).to_numpy(float) for side in ("regulator", "target")]
        if np.isnan(ends).any():
            raise ValueError(f"an edge of {transition} joins a gene that is not among the {len(place)} of var")
        rows, columns = (end.astype(int) for end in ends)
        weights = mine["weight"].to_numpy(float)
        adata.varp[key] = csr_matrix((weights, (rows, columns)), shape=(len(place), len(place)))
    adata.uns["transitions"] = np.array(judgement.transitions, dtype=object)
    adata.uns["varp"] = np.array(_keys(judgement.transitions), dtype=object)
    return adata


def _keys(transitions: list[str]) -> list[str]:
    """Names of varp in the order of the transitions, each once."""
    keys = [name.replace("/", "_") for name in transitions]
    return keys if len(set(keys)) == len(keys) else [f"{place} {key}" for place, key in enumerate(keys)]


def _present(edges: pd.DataFrame) -> pd.DataFrame:
    weight = edges["weight"].astype(float)
    return edges[np.isfinite(weight) & (weight != 0)]
