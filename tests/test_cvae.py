"""The conditional VAE: its loss against scipy and torch.distributions, its cells against its own likelihood, and a
planted world that it has to learn."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import scipy.stats
import torch
from conftest import write_h5ad

from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data import split as splits
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.models.cvae import CVAE, VALIDATION_STEP, Beta, kl_to_standard_normal
from stormcell.nn.noise import keyed_normal

ADAM = partial(torch.optim.AdamW, lr=3e-3)
HELD = partial(splits.held_out_perturbations, names=["A+B"], test_cells=0.1)


def module(path, batch_size=256, scale="counts", **keys):
    library = "total_counts" if scale == "counts" else None
    config = DataConfig(
        "planted",
        path=str(path),
        batch_key="batch",
        library_key=library,
        scale=scale,
        genes=GeneSelection(None),
        **keys,
    )
    data = ControlPerturbedDataModule(config, HELD, seed=1, batch_size=batch_size)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data(planted):
    return module(planted.path, covariate_keys=["batch"])


@pytest.fixture(scope="module")
def elsewhere(planted, tmp_path_factory):
    """scale → the same cells as log1p values, or as scaled ones that go below zero."""
    import anndata as ad

    file = ad.read_h5ad(planted.path)
    logs = np.log1p(file.X.toarray() / file.obs["total_counts"].to_numpy()[:, None] * 1e4)
    folder, made = tmp_path_factory.mktemp("scales"), {}
    for scale, values in {"log1p": logs, "continuous": (logs - logs.mean(0)) / logs.std(0)}.items():
        path = write_h5ad(folder / f"{scale}.h5ad", values, file.obs, list(file.var_names))
        made[scale] = module(path, scale=scale, covariate_keys=["batch"])
    return made


def shaken(data, seed=0, **arguments):
    """A model in evaluation mode with every weight away from its start: nothing is zero by accident."""
    torch.manual_seed(seed)
    model = CVAE(data.spec, ADAM, seed=7, **{"latent": 6, "hidden": (24, 16), **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def some_batch(data, n=40):
    """Cells of every condition; the tensors are its own, not those of the ring of buffers."""
    batch = data.batch(data.step_rows(0)[:n])
    return batch._replace(**{name: value.clone() for name, value in batch._asdict().items() if value is not None})


def controls(model, data, n, seed=0):
    batch = model.sources(data, "all", n, seed)
    return batch._replace(**{name: value.clone() for name, value in batch._asdict().items() if value is not None})


def part_of(batch, where):
    return batch._replace(**{name: value[where] for name, value in batch._asdict().items() if value is not None})


# ---- the loss


def test_kl_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_var = torch.randn(50, 8), torch.randn(50, 8)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(kl_to_standard_normal(mean, log_var), expected, rtol=1e-5, atol=1e-6)
    assert not kl_to_standard_normal(torch.zeros(1, 8), torch.zeros(1, 8)).any()


def decoded_by_hand(model, batch):
    """The posterior, the keyed noise and the decoder, one step after the other: mean, log variance, decoder output."""
    condition = torch.cat([batch.condition, batch.covariates], -1)
    mean, log_var = model.network.encoder(torch.cat([batch.x, condition], -1)).chunk(2, -1)
    assert log_var.abs().max() < 5
    z = mean + (log_var / 2).exp() * keyed_normal(model.seed, VALIDATION_STEP, batch.index, model.latent)
    out = model.network.decoder(torch.cat([z, condition], -1)) + condition @ model.network.effects.weight.T
    return mean, log_var, model.network.level + out


def scipy_log_prob(model, batch, decoded):
    scale = model.log_scale.double().exp().numpy()
    if model.likelihood == "gaussian":
        return scipy.stats.norm.logpdf(batch.x.double(), decoded.double(), scale).sum(1)
    rate = batch.library.double().numpy() * np.exp(decoded.double().numpy())
    return scipy.stats.nbinom.logpmf(batch.counts.double(), scale, scale / (scale + rate)).sum(1)


@pytest.mark.parametrize(
    ("scale", "likelihood", "sigma"),
    [
        ("counts", "negative_binomial", "gene"),
        ("counts", "gaussian", "gene"),
        ("counts", "gaussian", "shared"),
        ("log1p", "gaussian", "gene"),
        ("continuous", "gaussian", "shared"),
    ],
)
@torch.no_grad()
def test_the_loss_is_the_elbo_of_scipy(data, elsewhere, scale, likelihood, sigma):
    data = data if scale == "counts" else elsewhere[scale]
    model, batch = shaken(data, likelihood=likelihood, sigma=sigma, beta=Beta(weight=0.7)), some_batch(data)
    assert model.log_scale.shape == ((60,) if sigma == "gene" else ())
    mean, log_var, decoded = decoded_by_hand(model, batch)
    log_prob = scipy_log_prob(model, batch, decoded)
    assert model.log_prob(batch, decoded).double().numpy() == pytest.approx(log_prob, rel=1e-5)
    kl = (0.5 * (mean**2 + log_var.exp() - log_var - 1)).sum(1).mean().item()
    parts = model.loss(batch)
    assert set(parts) == set(model.parts)
    assert parts["reconstruction"].item() == pytest.approx(-log_prob.mean(), rel=1e-5)
    assert parts["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(-log_prob.mean() + 0.7 * kl, rel=1e-5)


def in_training(monkeypatch, model, step, progress):
    monkeypatch.setattr(CVAE, "global_step", property(lambda self: step))
    monkeypatch.setattr(CVAE, "progress", property(lambda self: progress))
    return model.train()


def test_the_weight_of_the_kl_follows_the_schedule(data, monkeypatch):
    model, batch = shaken(data, beta=Beta(weight=0.8, warmup=0.4)), some_batch(data)
    for progress, weight in {0.0: 0.0, 0.1: 0.2, 0.4: 0.8, 0.9: 0.8}.items():
        parts = in_training(monkeypatch, model, 3, progress).loss(batch)
        expected = parts["reconstruction"] + weight * parts["kl"]
        assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_schedules():
    constant = Beta(weight=0.5, schedule="constant")
    assert [constant.at(p) for p in (0, 0.01, 1)] == [0.5] * 3
    linear = Beta(weight=2.0, warmup=0.4)
    assert [linear.at(p) for p in (0, 0.1, 0.2, 0.4, 0.7, 1)] == pytest.approx([0, 0.5, 1, 2, 2, 2])
    assert Beta(warmup=0).at(0) == 1
    cyclical = Beta(weight=2.0, schedule="cyclical", warmup=0.5, cycles=4)
    one = [cyclical.at(p / 4) for p in (0, 0.25, 0.5, 0.99)]
    assert one == pytest.approx([0, 1, 2, 2])
    for cycle in (1, 2, 3):
        assert [cyclical.at((cycle + p) / 4) for p in (0, 0.25, 0.5, 0.99)] == pytest.approx(one)
    assert cyclical.at(1.0) == 2  # the last step of training has the full weight, not that of a new cycle


@torch.no_grad()
def test_free_bits_are_a_floor_under_each_dimension(data):
    model, batch = shaken(data, free_bits=0.3), some_batch(data)
    mean, log_var, _ = decoded_by_hand(model, batch)
    each = (0.5 * (mean**2 + log_var.exp() - log_var - 1)).numpy()
    assert (each < 0.3).any()
    assert (each > 0.3).any()
    assert model.loss(batch)["kl"].item() == pytest.approx(np.maximum(each, 0.3).sum(1).mean(), rel=1e-5)
    model.network.encoder[-1].weight.zero_()
    model.network.encoder[-1].bias.zero_()
    assert model.loss(batch)["kl"].item() == pytest.approx(6 * 0.3, rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("step", [None, 11])
def test_a_cell_has_the_same_loss_in_any_batch(data, monkeypatch, step):
    """So that one process and several compute one and the same mean, whatever the last batch holds."""
    model, batch = shaken(data), some_batch(data, 41)
    if step is not None:
        in_training(monkeypatch, model, step, 0.5)
    whole = {name: value.item() for name, value in model.loss(batch).items()}
    shuffled = torch.randperm(41)
    for pieces in ([shuffled[:20], shuffled[20:]], [shuffled[:40], shuffled[40:]], shuffled[:, None]):
        for name in model.parts:
            sums = [model.loss(part_of(batch, piece))[name].item() * len(piece) for piece in pieces]
            assert sum(sums) / 41 == pytest.approx(whole[name], rel=1e-5)


def test_a_last_batch_of_one_cell_counts_as_one_cell(data, planted):
    """Validation through Lightning: the logged means are those over the cells, however they fall into batches."""
    n = len(data.rows["validation"])
    model, rows = shaken(data), data.rows["validation"]
    whole = model.loss(data.batch(rows))
    other = module(planted.path, covariate_keys=["batch"], batch_size=n - 1)
    assert [len(batch.x) for batch in other.chunks("validation")] == [n - 1, 1]
    fit = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    [logged] = fit.validate(model, datamodule=other, verbose=False)
    for name in model.parts:
        assert logged[f"val/{name}"] == pytest.approx(whole[name].item(), rel=1e-5)
    assert -1 <= logged["val/shift_correlation"] <= 1


@torch.no_grad()
def test_training_noise_is_new_in_every_step(data, monkeypatch):
    model, batch = shaken(data), some_batch(data)
    first, again, later = (in_training(monkeypatch, model, step, 0.5).loss(batch)["loss"].item() for step in (4, 4, 5))
    assert first == again != later


# ---- which likelihood


def test_the_likelihood_follows_the_scale(data, elsewhere):
    assert CVAE(data.spec, ADAM).likelihood == "negative_binomial"
    for scale, other in elsewhere.items():
        assert CVAE(other.spec, ADAM).likelihood == "gaussian"
        with pytest.raises(UserError, match=rf"negative_binomial needs counts, but data.scale={scale}"):
            CVAE(other.spec, ADAM, likelihood="negative_binomial")


def test_a_gaussian_starts_at_the_level_of_the_expression(data, elsewhere):
    train = data.expression[data.rows["train"]].toarray()
    counts = data.cells.X[data.rows["train"]].sum(0).A1
    library = data.cells.obs["library"].to_numpy()[data.rows["train"]].sum()
    levels = {"counts": np.log1p(counts / library * 1e4), "log1p": train.mean(0)}
    for scale, view in {"counts": data, **elsewhere}.items():
        model = CVAE(view.spec, ADAM, likelihood="gaussian")
        here = view.expression[view.rows["train"]].toarray()
        assert model.network.level.numpy() == pytest.approx(levels.get(scale, here.mean(0)), rel=1e-3, abs=1e-4)
        assert model.log_scale.exp().detach().numpy() == pytest.approx(here.std(0), rel=1e-3)


# ---- generation


@pytest.mark.parametrize("likelihood", ["negative_binomial", "gaussian"])
@pytest.mark.parametrize("mode", ["A", "B"])
def test_one_seed_gives_one_set_of_cells(data, likelihood, mode):
    model = shaken(data, likelihood=likelihood)
    source = controls(model, data, 30)
    cells = model.generate("A+B", source, mode, seed=5)
    assert cells.shape == (30, 60)
    assert cells.dtype == np.float32
    assert np.array_equal(cells, model.generate("A+B", source, mode, seed=5))
    for other in (
        model.generate("A+B", source, mode, seed=6),
        model.generate("A", source, mode, seed=5),
        model.generate("A+B", source, "A" if mode == "B" else "B", seed=5),
        model.generate("A+B", source, mode, seed=5, draw=False),
    ):
        assert not np.array_equal(cells, other)
    assert np.array_equal(model.generate("A+B", source, mode, 5), model.generate("B+A", source, mode, 5))


def blind(model):
    """A decoder that does not see z: every cell of a condition and batch has one and the same likelihood."""
    with torch.no_grad():
        model.network.decoder[0].weight[:, : model.latent] = 0
    return model


@torch.no_grad()
def test_drawn_counts_have_the_mean_and_spread_of_the_likelihood(data):
    model, n = blind(shaken(data)), 20_000
    source = controls(model, data, n)
    drawn = np.expm1(model.generate("A+B", source, "A", seed=1).astype(float)) / 1e4
    rate = np.expm1(model.generate("A+B", source, "A", seed=1, draw=False).astype(float)) / 1e4
    hot = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(n, -1)
    by_hand = model.network.decode(torch.zeros(n, model.latent), torch.cat([hot, source.covariates], -1)).exp()
    assert np.allclose(rate, by_hand, rtol=1e-4, atol=0)
    library, theta = source.library.numpy().astype(float), model.log_scale.exp().detach().numpy()
    # counts / library: mean μ = rate, variance (library · μ + (library · μ)² / θ) / library²
    variance = rate / library + rate**2 / theta
    off = (drawn - rate).sum(0) / np.sqrt(variance.sum(0))
    assert np.abs(off).max() < 4.5
    assert np.median(((drawn - rate) ** 2).sum(0) / variance.sum(0)) == pytest.approx(1, abs=0.05)


def test_a_generated_cell_has_the_library_of_its_source(data):
    model = shaken(data)
    source = controls(model, data, 300)
    assert len(np.unique(source.library)) > 100
    for mode in ("A", "B"):
        cells = model.generate("C", source, mode, seed=2).astype(float)
        counts = np.expm1(cells) / 1e4 * source.library.numpy()
        assert np.abs(counts - np.rint(counts)).max() < 1e-2
        unit = np.where(counts > 0.5, counts, np.inf).min(1)
        assert np.median(unit) == pytest.approx(1, abs=1e-3)


@torch.no_grad()
def test_drawn_expression_of_a_gaussian(elsewhere):
    for sigma in ("gene", "shared"):
        model, n = blind(shaken(elsewhere["continuous"], sigma=sigma)), 20_000
        source = controls(model, elsewhere["continuous"], n)
        mean = model.generate("D", source, "A", seed=1, draw=False)
        drawn = model.generate("D", source, "A", seed=1)
        hot = torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand(n, -1)
        by_hand = model.network.decode(torch.zeros(n, model.latent), torch.cat([hot, source.covariates], -1))
        assert np.allclose(mean, by_hand, atol=1e-5)
        spread = model.log_scale.exp().numpy()
        assert np.abs((drawn - mean).mean(0) / spread).max() < 4.5 / n**0.5
        assert (drawn - mean).std(0) / spread == pytest.approx(np.ones(60), abs=0.03)


@torch.no_grad()
def test_modes_are_the_two_ways_to_a_latent(data):
    """A: z = noise. B: z = the posterior of the control cell, read under control, with the same noise."""
    model = shaken(data)
    source = controls(model, data, 25)
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal((25, model.latent), np.float32))
    control = torch.cat([torch.zeros(25, 4), source.covariates], -1)
    mean, log_var = model.network.encode(source.x, control)
    latents = {"A": noise, "B": mean + (0.5 * log_var).exp() * noise}
    for condition, hot in {"control": [0, 0, 0, 0], "C+D": [0, 0, 1, 1]}.items():
        columns = torch.cat([torch.tensor([hot]).float().expand(25, -1), source.covariates], -1)
        for mode, z in latents.items():
            expected = np.log1p(model.network.decode(z, columns).double().exp().numpy() * 1e4)
            found = model.generate(condition, source, mode, seed=3, draw=False)
            assert np.allclose(found, expected, rtol=1e-5)


def test_sources_are_training_controls_each_as_often(data):
    model = shaken(data)
    rows = data.control_rows("all")
    index = model.sources(data, "all", 3 * len(rows), seed=0).index.numpy()
    assert np.array_equal(np.sort(index), np.repeat(rows, 3))
    few = model.sources(data, "all", 10, seed=0).index.numpy()
    assert len(set(few)) == 10
    assert set(few) <= set(rows)
    assert set(few) != set(model.sources(data, "all", 10, seed=1).index.numpy())


def test_matched_sources_have_the_proportions_of_the_cells_and_no_order(data):
    """The first of the generated cells stand for all of them in predictions.h5ad and in the picture."""
    model = shaken(data, match="batch")
    batch = data.cells.obs["batch"].to_numpy(str)
    first, second = np.unique(batch[data.control_rows("all")])[:2]
    found = batch[model.sources(data, "all", 1000, seed=0, like=np.array([first, second, second, second])).index]
    assert set(found) == {first, second}
    for part in (found, found[:200]):
        assert abs((part == second).mean() - 0.75) < 0.1


def test_an_unknown_target_is_refused(data):
    model = shaken(data)
    source = controls(model, data, 3)
    with pytest.raises(
        UserError, match=r"no training cell is perturbed at E, F, .* of 'A\+E\+F'; its targets: A, B, C"
    ):
        model.generate("A+E+F", source, "A", seed=0)


# ---- learning


@pytest.fixture(scope="module")
def trained(data):
    """Twelve hundred steps of Lightning, from a start that knows nothing of the effects."""
    torch.manual_seed(0)
    model = CVAE(data.spec, ADAM, seed=1, latent=6, hidden=(48, 48))
    pl.Trainer(
        max_steps=1200,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    ).fit(model, datamodule=data)
    return model.eval()


def shift_correlations(model, data, planted, mode, draw=True):
    """Condition → correlation of the generated with the true, noise-free shift."""
    source = controls(model, data, 1000)
    control = data.expression[data.control_rows("all")].mean(0).A1
    means = {c: model.generate(c, source, mode, 0, draw).mean(0) for c in planted.conditions}
    return {c: np.corrcoef(mean - control, planted.shift[c])[0, 1] for c, mean in means.items()}


@pytest.mark.parametrize("mode", ["A", "B"])
def test_the_planted_shifts_are_recovered(trained, data, planted, mode):
    found = shift_correlations(trained, data, planted, mode)
    assert min(found.values()) > 0.9, found  # A+B was in no training cell
    # The pooled level of all training cells is all that an untrained model has, and resembles every shift a little.
    ignorant = shift_correlations(CVAE(data.spec, ADAM, latent=6, hidden=(48, 48)).eval(), data, planted, mode)
    assert np.median(list(ignorant.values())) < 0.5, ignorant


@pytest.mark.parametrize("mode", ["A", "B"])
def test_generated_cells_spread_as_the_true_ones(trained, data, planted, mode):
    source = controls(trained, data, 1000)
    cells = data.expression[np.flatnonzero(data.cells.obs["condition"] == "C+D")].toarray()
    drawn, means = (trained.generate("C+D", source, mode, 1, draw).var(0) / cells.var(0) for draw in (True, False))
    assert np.median(drawn) == pytest.approx(1, abs=0.2)
    assert np.median(means) < 0.7  # means of the likelihood lack the noise of counting
    assert trained.log_scale.exp().mean().item() == pytest.approx(planted.theta, rel=0.15)


def test_mode_b_under_control_gives_the_control_cell_back(trained, data, planted):
    """Each control cell keeps its place in the shared programme; cells of mode A are strangers to their source."""
    source = controls(trained, data, 200)
    place = planted.programme[data.cells.obs.index[source.index.numpy()]].to_numpy()
    found = {}
    for mode in ("A", "B"):
        rebuilt = trained.generate("control", source, mode, 0, draw=False)
        found[mode] = abs(np.corrcoef((rebuilt - rebuilt.mean(0)) @ planted.loading, place)[0, 1])
    assert found["B"] > 0.75
    assert found["A"] < 0.25


def test_collapse_is_told_with_what_to_do(trained, data):
    [note] = trained.notes(data)
    assert "active" in note
    assert "collapsed" not in note
    collapsed = CVAE(data.spec, ADAM, latent=6, hidden=(48, 48)).eval()
    with torch.no_grad():
        collapsed.network.encoder[-1].weight.zero_()
        collapsed.network.encoder[-1].bias.zero_()
    [note] = collapsed.notes(data)
    assert note.startswith("latent space: 0 of 6 units active, 0.00 nats")
    assert "the posterior has collapsed" in note
    assert "model.free_bits" in note


def test_the_closed_form_start_knows_the_effects(data, planted):
    model = CVAE(data.spec, ADAM, latent=6, hidden=(48, 48)).eval()
    with torch.no_grad():
        model.network.decoder[-1].weight.zero_()
        model.network.decoder[-1].bias.zero_()
    model.initialise(data)
    for place, target in enumerate(data.spec.targets):
        effect = model.network.effects.weight[:, place].detach().numpy()
        assert np.corrcoef(effect, planted.effect[target])[0, 1] > 0.95
    assert min(shift_correlations(model, data, planted, "A").values()) > 0.9
