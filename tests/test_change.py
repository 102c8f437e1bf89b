"""Change mode against closed forms and scipy, and its calibration on planted decoders."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import false_discovery_control, ttest_ind
from sklearn.metrics import average_precision_score

from stormcell.analysis.change import OFFSET, change, expected_fdr, log_fold_changes

G, K = 300, 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def names(n=G):
    return [f"g{i}" for i in range(n)]


class Decoder:
    """softmax(base + z B + t W): the background moves every gene, the first salient dimension only 30 of them."""

    def __init__(self, rng):
        self.base, self.background = rng.normal(0, 1, G), rng.normal(0, 0.5, (3, G))
        self.salient = np.vstack(
            [np.where(np.arange(G) < 30, rng.choice([-1, 1], G), 0.0), rng.normal(0, 0.3, (K - 1, G))]
        )

    def pairs(self, rng, t, chunk=64):
        z = rng.normal(size=(len(t), 3))
        for start in range(0, len(t), chunk):
            rows = slice(start, start + chunk)
            logits = self.base + z[rows] @ self.background
            yield softmax(logits + t[rows] @ self.salient, axis=1), softmax(logits, axis=1)


def test_columns_are_what_their_names_say(rng):
    shares = rng.dirichlet(np.ones(7), size=(2, 40)).astype(np.float32)
    table = change([(shares[0, :15], shares[1, :15]), (shares[0, 15:], shares[1, 15:])], names(7), delta=0.5)
    lfc = np.log2(shares[0].astype(float) + OFFSET) - np.log2(shares[1].astype(float) + OFFSET)
    p = (np.abs(lfc) > 0.5).mean(0)
    expected = {
        "scale_with": shares[0].mean(0),
        "scale_without": shares[1].mean(0),
        "lfc_mean": lfc.mean(0),
        "lfc_median": np.median(lfc, axis=0),
        "lfc_std": lfc.std(0, ddof=1),
        "lfc_min": lfc.min(0),
        "lfc_max": lfc.max(0),
        "proba_de": p,
        "bayes_factor": np.log((40 * p + 0.5) / (40 * (1 - p) + 0.5)),
    }
    assert table["gene"].tolist() == names(7)
    for column, values in expected.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-5, atol=1e-6, err_msg=column)
    assert table[["effect", "p", "q"]].isna().all(axis=None)
    assert (table["is_de"] == table["is_de_posterior"]).all()


def test_chunks_of_cells_and_blocks_of_genes_change_nothing(rng, monkeypatch):
    decoder, t = Decoder(rng), rng.normal(size=(100, K))
    null = log_fold_changes(decoder.pairs(rng, rng.normal(size=(50, K))))
    one = change(decoder.pairs(np.random.default_rng(1), t, 100), names(), null=null)
    monkeypatch.setattr("stormcell.analysis.change.BLOCK", 7)
    many = change(decoder.pairs(np.random.default_rng(1), t, 9), names(), null=null)
    np.testing.assert_allclose(
        one.drop(columns="gene").astype(float), many.drop(columns="gene").astype(float), rtol=1e-5
    )


def test_the_offset_bounds_the_fold_change_of_a_gene_that_is_hardly_there():
    pair = [(np.full((3, 1), 1e-9), np.full((3, 1), 1e-7))]
    assert abs(log_fold_changes(pair)[0, 0]) < 0.02
    np.testing.assert_allclose(log_fold_changes(pair, offset=1e-12)[0], np.log2(0.01), rtol=1e-3)


def test_expected_fdr_by_hand():
    probability = np.array([0.5, 1.0, 0.9, 0.9])
    np.testing.assert_allclose(expected_fdr(probability), [0.7 / 4, 0, 0.2 / 3, 0.2 / 3])


def test_expected_fdr_is_the_share_of_false_calls_where_probabilities_are_true(rng):
    probability = rng.beta(0.5, 0.5, 20_000)
    truth = rng.random(20_000) < probability
    called = expected_fdr(probability) <= 0.1
    assert abs((~truth[called]).mean() - 0.1) < 0.01
    assert called.sum() > 1000


def test_p_is_that_of_welch(rng):
    decoder, t = Decoder(rng), rng.normal(0.1, 1, (80, K))
    lfc = log_fold_changes(decoder.pairs(np.random.default_rng(1), t))
    null = log_fold_changes(decoder.pairs(rng, rng.normal(0, 0.4, (200, K))))
    table = change(decoder.pairs(np.random.default_rng(1), t), names(), null=null)
    expected = ttest_ind(lfc.astype(float), null.astype(float), equal_var=False)
    np.testing.assert_allclose(table["p"], expected.pvalue, rtol=1e-6)
    np.testing.assert_allclose(table["effect"] / table["se"], expected.statistic, rtol=1e-6)


def test_without_effect_the_calibrated_rule_is_silent_where_change_mode_is_not(rng):
    """The salient part of control and perturbed cells is the same noise; a gene that is called is a false one."""
    calibrated, posterior = [], []
    for _ in range(40):
        decoder = Decoder(rng)
        null = log_fold_changes(decoder.pairs(rng, rng.normal(size=(150, K))))
        # delta 0, so that the size of the change does not help
        table = change(decoder.pairs(rng, rng.normal(size=(60, K))), names(), delta=0.0, null=null)
        calibrated.append(table["is_de"].mean())
        wide = change(decoder.pairs(rng, rng.normal(size=(60, K))), names(), delta=0.05, null=null)
        posterior.append(wide["is_de_posterior"].mean())
    assert np.mean(calibrated) <= 0.05
    assert np.mean(posterior) > 0.5


def test_the_rate_holds_over_genes_and_a_change_below_delta_is_none(rng):
    """2,000 genes with noise of their own: 100 of them have p < .05. One real change is small, one large."""
    shares = np.full((60, 2000), 1e-3)
    noise = np.exp(rng.normal(0, 0.15, (260, 2000)))
    noise[:60, :2] *= 2 ** np.array([0.2, 1.0])
    null = log_fold_changes([(1e-3 * noise[60:], np.full((200, 2000), 1e-3))])
    table = change([(shares * noise[:60], shares)], names(2000), null=null)
    np.testing.assert_allclose(table["q"], false_discovery_control(table["p"]))
    assert (table["p"] < 0.05).sum() > 50
    everything = change([(shares * noise[:60], shares)], names(2000), delta=0.0, null=null)
    assert everything["is_de"][:2].all()
    assert everything["is_de"][2:].sum() <= 2
    assert table["is_de"][:2].tolist() == [False, True]


def test_planted_genes_are_found_and_few_others(rng):
    decoder = Decoder(rng)
    null = log_fold_changes(decoder.pairs(rng, rng.normal(0, 0.4, (300, K))))
    t = rng.normal(0, 0.4, (200, K))
    t[:, 0] += 1.5
    table = change(decoder.pairs(rng, t), names(), null=null)
    truth = np.arange(G) < 30
    assert table["is_de"][truth].mean() == 1
    assert (~truth[table["is_de"]]).mean() < 0.1
    assert average_precision_score(truth, table["effect"].abs()) > 0.99
    assert (np.sign(table["effect"][truth]) == np.sign(decoder.salient[0, truth])).all()


def test_a_gene_that_never_moves_is_no_discovery():
    same = np.full((5, 2), 0.5)
    moved = same * [1, 0.5]
    table = change([(moved, same)], names(2), null=np.zeros((4, 2), np.float32))
    assert table["p"].tolist() == [1, 0]
    assert table["is_de"].tolist() == [False, True]


def test_one_cell_has_no_test():
    table = change([(np.full((1, 2), 0.5), np.full((1, 2), 0.1))], names(2), null=np.zeros((4, 2)))
    assert table["p"].isna().all()
    assert not table["is_de"].any()


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([], "no cells"),
        ([(np.ones((2, 3)), np.ones((2, 3)))], "2 genes"),
        ([(np.array([[0.1, np.nan]]), np.ones((1, 2)))], "finite"),
        ([(np.array([[0.1, -0.1]]), np.ones((1, 2)))], "negative"),
    ],
)
def test_what_is_no_expression_is_refused(pairs, found):
    with pytest.raises(ValueError, match=found):
        change(pairs, names(2))


def test_a_null_of_other_genes_and_an_offset_of_zero_are_refused():
    pair = [(np.ones((2, 2)), np.ones((2, 2)))]
    with pytest.raises(ValueError, match="null"):
        change(pair, names(2), null=np.zeros((3, 5)))
    with pytest.raises(ValueError, match="offset"):
        change(pair, names(2), offset=0)
