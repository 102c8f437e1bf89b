"""model=bilinear and trilinear: the equation, what the constant adds, members, planted interactions, checkpoints."""

from functools import partial
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset

from stormcell import checkpoint
from stormcell.config import UserError
from stormcell.data.frequency_spec import FrequencySpec
from stormcell.models.bilinear import Bilinear
from stormcell.nn.bilinear import Bilinear as Network

LETTERS = "ijk"


def spec(n_inputs=6, outputs=3, task="regression"):
    names = tuple(f"output {o}" for o in range(outputs))
    genes = tuple(f"g{i}" for i in range(n_inputs))
    return FrequencySpec(genes, "continuous", task, names, (), "genes", n_inputs)


def cells(x, y):
    """The least that a model asks of a data module: rows, inputs, targets."""
    rows = {part: np.arange(len(x))[i::3] for i, part in enumerate(("train", "validation", "test"))}
    return SimpleNamespace(rows=rows, inputs=x.astype(np.float32), targets=y)


def fitted(x, y, steps=400, **words):
    """A model after so many full-batch steps on all cells."""
    torch.manual_seed(0)
    task = "classification" if y.ndim == 1 else "regression"
    n_outputs = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
    rate = partial(torch.optim.AdamW, lr=1e-2, weight_decay=1e-2)
    model = Bilinear(spec(x.shape[1], n_outputs, task), rate, **{"hidden": 16, **words})
    optimizer = model.configure_optimizers()["optimizer"]
    batch = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32 if y.ndim == 2 else torch.long)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    return model.eval()


def r2(model, x, y):
    return model.held_out(cells(x, y), "test")


# ---- the equation


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("members", [1, 3])
def test_the_network_is_its_interaction_tensor(order, bias, members):
    """f_o(x) = Σ_ij B_oij x̃_i x̃_j with B_o = Σ_h P_oh l_h r_hᵀ, and the same with a third factor."""
    torch.manual_seed(1)
    network = Network(5, 7, 4, order, bias, members).double()
    network.scale.copy_(torch.linspace(0.5, 2.0, 5))
    factors = network.factor_matrices()
    assert [one.shape for one in factors] == [(7 * members, 6)] * order
    assert bias or all((one[:, -1] == 0).all() for one in factors)
    axes = LETTERS[:order]
    tensor = np.einsum(",".join(["oh", *(f"h{a}" for a in axes)]) + "->o" + axes, network.readout.detach(), *factors)
    x = np.random.default_rng(0).normal(size=(9, 5))
    extended = [np.hstack([x, np.ones((9, 1))])] * order
    expected = np.einsum("o" + axes + "," + ",".join(f"n{a}" for a in axes) + "->no", tensor, *extended)
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach(), expected, atol=1e-12)


@pytest.mark.parametrize(("order", "sign"), [(2, 1), (3, -1)])
def test_without_the_constant_order_2_is_even_and_order_3_odd(order, sign):
    torch.manual_seed(1)
    x = torch.randn(20, 5)
    network = Network(5, 8, 3, order, bias=False)
    torch.testing.assert_close(network(-x), sign * network(x))
    whole = Network(5, 8, 3, order)
    assert (whole(-x) - sign * whole(x)).abs().max() > 1e-2


def test_a_linear_effect_needs_the_constant():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = x @ rng.normal(size=(4, 2))
    assert r2(fitted(x, y), x, y).min() > 0.98
    assert r2(fitted(x, y, bias=False), x, y).max() < 0.3


# ---- members


def test_the_mean_of_the_members_is_one_bilinear_network():
    torch.manual_seed(2)
    many = Network(5, 4, 3, members=6)
    one = Network(5, 24, 3)
    one.factors.load_state_dict(many.factors.state_dict())
    one.readouts.data = many.readout.detach()[None].clone()
    x = torch.randn(10, 5)
    said = many.by_member(x)
    assert said.shape == (6, 10, 3)
    assert (said[0] - said[1]).abs().max() > 1e-3
    torch.testing.assert_close(said.mean(0), many(x))
    torch.testing.assert_close(one(x), many(x))


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_a_member_learns_as_it_would_alone(loss):
    """The gradient of a member among three is a third of the one that it has by itself; it sees no other member."""
    torch.manual_seed(3)
    among = Bilinear(spec(), None, hidden=4, members=3, loss=loss)
    alone = Bilinear(spec(), None, hidden=4, loss=loss)
    mine = torch.arange(2 * 3 * 4).unflatten(0, (2, 3, 4))[:, 1].flatten()  # rows of the second member in L and in R
    alone.network.factors.weight.data = among.network.factors.weight.data[mine].clone()
    alone.network.factors.bias.data = among.network.factors.bias.data[mine].clone()
    alone.network.readouts.data = among.network.readouts.data[1:2].clone()
    batch = torch.randn(16, 6), torch.randn(16, 3)
    for model in (among, alone):
        model.loss(batch)["loss"].backward()
    torch.testing.assert_close(among.network.factors.weight.grad[mine] * 3, alone.network.factors.weight.grad)
    torch.testing.assert_close(among.network.readouts.grad[1:2] * 3, alone.network.readouts.grad)


@pytest.mark.parametrize("power", [0, 0.5, 1.5])
def test_components_enter_by_their_standard_deviation(power):
    """Scores of orthonormal directions, made white, and what the model makes of them."""
    x = np.random.default_rng(0).normal(size=(200, 6)) * np.arange(6, 0, -1)
    directions, sd, _ = np.linalg.svd((x - x.mean(0)).T / np.sqrt(200))
    model = Bilinear(spec(), None, input_power=power)
    model.initialise(SimpleNamespace(basis=SimpleNamespace(matrix=directions / sd)))
    scale = model.network.scale.numpy()
    np.testing.assert_allclose(scale / scale[0], (sd / sd[0]) ** power, rtol=1e-5)
    assert np.mean(scale**2) == pytest.approx(1, rel=1e-5)
    genes = Bilinear(spec(), None, input_power=power)
    genes.initialise(SimpleNamespace(basis=SimpleNamespace(matrix=None)))
    assert (genes.network.scale == 1).all()


# ---- losses


@pytest.mark.parametrize(("loss", "value"), [("mse", (9 + 0.25) / 2), ("l1", 1.75), ("huber", (2.5 + 0.125) / 2)])
def test_losses_in_closed_form(loss, value):
    model = Bilinear(spec(outputs=2), None, loss=loss)
    model.network.readouts.data.zero_()
    batch = torch.randn(8, 6), torch.tensor([[3.0, -0.5]]).expand(8, 2)
    for training in (True, False):
        assert model.train(training).loss(batch)["loss"].item() == pytest.approx(value)


def test_in_validation_the_loss_is_that_of_the_mean_of_the_members():
    torch.manual_seed(0)
    model = Bilinear(spec(), None, members=4)
    batch = torch.randn(30, 6), torch.randn(30, 3)
    trained, validated = (model.train(mode).loss(batch)["loss"].item() for mode in (True, False))
    spread = model.network.by_member(batch[0]).var(0, unbiased=False).mean().item()
    assert validated == pytest.approx(np.mean(np.square(model.predict(batch[0].numpy()) - batch[1].numpy())), rel=1e-5)
    assert trained == pytest.approx(validated + spread, rel=1e-5)  # squared error = that of the mean + spread


def test_cross_entropy_of_classes_and_their_accuracy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    y = (x[:, 0] * x[:, 1] > 0).astype(int) + 2 * (x[:, 2] > 0)
    model = fitted(x, y, members=2)
    assert r2(model, x, y).item() > 0.9
    said, true = torch.from_numpy(model.predict(x)).double(), torch.from_numpy(y)
    batch = torch.tensor(x, dtype=torch.float32), true
    expected = -(said - said.logsumexp(1, keepdim=True))[torch.arange(600), true].mean().item()
    assert model.loss(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    by_member = model.network.by_member(batch[0]).detach().double().log_softmax(-1)
    expected = -by_member[:, torch.arange(600), true].mean().item()
    assert model.train().loss(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


# ---- planted interactions


@pytest.mark.parametrize("order", [2, 3])
def test_a_planted_product_is_fitted_and_found_in_the_weights(order):
    """y = the product of two (three) genes: the entry of the symmetrised tensor that stands out is theirs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1500, 6))
    y = x[:, :order].prod(1, keepdims=True)
    early, model = (fitted(x, y, steps, order=order) for steps in (20, 600))
    assert r2(model, x, y)[0] > max(0.95, r2(early, x, y)[0] + 0.1)
    axes = LETTERS[:order]
    factors = [one[:, :6] for one in model.network.factor_matrices()]
    axes_of = ",".join(["h", *(f"h{a}" for a in axes)]) + "->" + axes
    tensor = np.einsum(axes_of, model.network.readout[0].detach(), *factors)
    orders = list(permutations(range(order)))
    total = sum(tensor.transpose(one) for one in orders)  # the coefficient of the product of three (two) unlike genes
    assert total[orders[0]] == pytest.approx(1.0, abs=0.1)
    others = np.abs(total)
    for one in orders:
        others[one] = 0
    assert others.max() < 0.1


def test_r2_is_that_of_scikit_learn():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 6)), rng.normal(size=(90, 3))
    model, data = Bilinear(spec(), None).eval(), cells(x, y)
    rows = data.rows["validation"]
    expected = r2_score(y[rows], model.predict(x[rows]), multioutput="raw_values")
    np.testing.assert_allclose(model.held_out(data, "validation"), expected, rtol=1e-6)


# ---- a run


def trained(folder, seed=0):
    """A trilinear model, trained by Lightning on 90 cells, and its checkpoint."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 6)).astype(np.float32), rng.normal(size=(90, 3)).astype(np.float32)
    torch.manual_seed(seed)
    model = Bilinear(spec(), partial(torch.optim.AdamW, lr=1e-2), seed=seed, hidden=8, members=2, order=3)
    model.validation_scores = dict  # without a data module
    config = {
        "_target_": "stormcell.models.bilinear.Bilinear",
        "_partial_": True,
        "hidden": 8,
        "members": 2,
        "order": 3,
    }
    model.record = {
        "format": checkpoint.FORMAT, "config": {"model": config}, "spec": model.spec.record(),
    }  # fmt: skip
    batches = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=30)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=3, accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(model, batches)
    trainer.save_checkpoint(folder / f"{seed}.ckpt")
    return model.eval(), x, folder / f"{seed}.ckpt"


def test_a_checkpoint_says_what_the_model_said(tmp_path):
    model, x, path = trained(tmp_path)
    back = checkpoint.load(path)
    assert back.spec == model.spec
    np.testing.assert_array_equal(back.predict(x), model.predict(x))


def test_an_equal_seed_is_an_equal_model(tmp_path):
    one, two, other = (trained(tmp_path, seed)[0].network.readouts.detach().numpy() for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 1e-2


# ---- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"order": 4}, r"model\.order=4: 2 \(pairs of genes\) or 3"),
        ({"hidden": 0}, r"model\.hidden=0: a whole number"),
        ({"members": 1.5}, r"model\.members=1\.5: a whole number"),
        ({"order": True}, r"model\.order=True"),
        ({"input_power": -1}, r"model\.input_power=-1: a number of at least 0"),
        ({"loss": "hubber"}, r"model\.loss=hubber.*huber"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        Bilinear(spec(), None, **words)


def test_sizes_of_nothing_are_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="order 4"):
        Network(3, 2, 1, order=4)
    with pytest.raises(ValueError, match="from 1 on"):
        Network(0, 2, 1)
