"""Predictions of any program on our scoreboard: what is known of them comes out, typed or in Python."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import runs

from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data import split as splits
from stormcell.data.screen import Screen
from stormcell.evaluator import evaluate

PAIRS = partial(splits.held_out_combinations, share=1.0, singles_seen=2, test_cells=0.0)
MEANS = ["shift_correlation", "shift_correlation_mean", "l2", "cosine_logfc", "pds", "de_direction"]


@pytest.fixture(scope="module")
def config(planted):
    return DataConfig(
        name="planted", path=str(planted.path), library_key="total_counts", batch_key="batch",
        genes=GeneSelection(top=None),
    )  # fmt: skip


@pytest.fixture(scope="module")
def additive(config):
    """What the additive baseline says, as another program would write it: shifts, perturbations × genes."""
    screen = Screen(config, PAIRS)
    screen.setup()
    single = screen.reference.train.by_condition
    shifts = {pair: sum(single[target] for target in pair.split("+")) for pair in screen.split.groups}
    return pd.DataFrame(shifts, index=list(screen.spec.genes)).T


def row(judgement, method):
    return judgement.scoreboard.set_index("method").loc[method]


def test_three_lines_of_python(config, additive, planted):
    judgement = evaluate(additive, data=planted.path, split=PAIRS, config=config)
    assert judgement.methods == ("predictions",)
    np.testing.assert_allclose(
        *(row(judgement, name)[MEANS].astype(float) for name in ("predictions", "additive")), rtol=1e-4
    )
    assert judgement.queries["condition"].tolist() == ["A+B", "C+D"]
    with pytest.raises(UserError, match=r"split='linear_double': no such rule .*'linear_doubles'"):
        evaluate(additive, data=planted.path, split="linear_double", config=config)
    with pytest.raises(UserError, match=r"2 combinations are too few .*split=linear_doubles"):
        evaluate(additive, data=planted.path, split="linear_doubles", config=config)  # the rule is found, and says no
    assert any("beats it" in s or "level" in s or "behind" in s or "reaches" in s for s in judgement.verdict)


def test_an_oracle_is_above_the_baselines_and_a_shuffled_one_below(config, additive, planted):
    """The true shifts of the planted world, and the same with the two pairs exchanged."""
    truth = pd.DataFrame({pair: planted.shift[pair] for pair in additive.index}, index=additive.columns).T
    order = [f"g{i}" for i in range(truth.shape[1])]
    truth = pd.DataFrame({pair: planted.shift[pair] for pair in additive.index}, index=order).T
    oracle = evaluate(truth, data=planted.path, split=PAIRS, config=config)
    exchanged = evaluate(truth.set_axis(truth.index[::-1]), data=planted.path, split=PAIRS, config=config)
    for metric, better in (("shift_correlation", 1), ("pds", 1), ("l2", -1), ("energy_distance", -1)):
        values = [row(oracle, "predictions")[metric], row(oracle, "training mean")[metric]]
        assert better * (values[0] - values[1]) > 0, metric
        assert better * (values[0] - row(exchanged, "predictions")[metric]) > 0, metric


def test_cells_in_memory_with_genes_in_another_order(config, planted):
    real = ad.read_h5ad(planted.path)
    pairs = real[real.obs["perturbation"].isin(["A+B", "C+D"])]
    backwards = pairs[:, pairs.var_names[::-1]].copy()
    judgement = evaluate(
        backwards, data=real, split=PAIRS, config=DataConfig(name="x", library_key="total_counts"),
        kind="cells", scale="counts", library_key="total_counts",
    )  # fmt: skip
    found = row(judgement, "predictions")
    assert found["l2"] < 1e-4 and found["variance_ratio"] == pytest.approx(1, abs=1e-4), "the truth itself"


# ---- from the command line

SPLIT = ("split=combinations", "split.share=1.0", "split.singles_seen=2")


def asked(planted, *arguments):
    return ("evaluate.py", "data=h5ad", f"data.path={planted.path}", "data.library_key=total_counts", *arguments)


def test_the_command_prints_and_writes_the_scoreboard(additive, planted, config, tmp_path):
    additive.to_csv(tmp_path / "mine.csv")
    arguments = ("data.batch_key=batch", "data.genes.top=null", "predictions=mine.csv", *SPLIT)
    done = runs.inside(*asked(planted, *arguments), "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "mine" in done.out and "additive" in done.out and "out/report.html" in done.out
    board = pd.read_csv(tmp_path / "out" / "scoreboard.csv").set_index("method")
    library = evaluate(tmp_path / "mine.csv", data=planted.path, split=PAIRS, config=config)
    np.testing.assert_allclose(board.loc["mine", MEANS].astype(float), row(library, "mine")[MEANS].astype(float))
    assert {"metrics.json", "report.html", "tables/split.csv", "predictions.h5ad"} < runs.listing(tmp_path / "out")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["predictions=mine.csv", "data=h5ad"], "split is missing: .*split=file"),
        (["predictions=mine.csv", *SPLIT], "data is missing: data=norman"),
        (["predictions=mine.csv", *SPLIT, "ckpt=x.ckpt"], "ckpt and predictions are both given"),
        ([], "ckpt is missing.*predictions="),
        (["predictions=mine.csv", "data=normn", *SPLIT], "data=normn: no such option .*'norman'"),
        (["predictions=mine.csv", "data=synthetic", "split=combination"], "split=combination: .*'combinations'"),
        (["predictions=min.csv", "data=synthetic", *SPLIT], "predictions=min.csv: no such file.*'mine.csv'"),
        (["predictions=mine.csv", "data=synthetic", *SPLIT, "kind=mean"], "kind=mean: .*'means'"),
        (["predictions=mine.csv", "data=synthetic", *SPLIT, "split.share=2"], r"split.share=2"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(arguments, words, additive, tmp_path):
    additive.to_csv(tmp_path / "mine.csv")
    done = runs.inside("evaluate.py", *arguments, cwd=tmp_path)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err
    assert pd.Series([done.err]).str.contains(words)[0], done.err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.csv"]


def test_missing_genes_are_named(additive, config, planted):
    with pytest.raises(UserError, match=r"g7"):
        evaluate(additive.drop(columns="g7"), data=planted.path, split=PAIRS, config=config)
