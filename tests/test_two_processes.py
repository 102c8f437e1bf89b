"""Two processes train as one: the same cells, the same gradients, exact validation."""

import numpy as np
import pandas as pd
import pytest
import runs

pytestmark = pytest.mark.xdist_group("runs")

# Three epochs of 9 steps. Adam divides a gradient by its own size, so a weight whose gradient is nothing but rounding
# would move by the learning rate into whichever direction the order of summation says; eps keeps such weights still.
EPOCHS = (
    *runs.CELLS,
    "trainer.max_epochs=3",
    "trainer.max_steps=-1",
    "trainer.val_check_interval=9",
    "trainer.log_every_n_steps=9",
    "model.scheduler=null",
    "model.optimizer.lr=1e-4",
    "+model.optimizer.eps=1e-6",
)


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """The folders of the same run in one process and in two."""
    base = tmp_path_factory.mktemp("processes")
    several = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    started = runs.start("train.py", *several, *EPOCHS, f"hydra.run.dir={base}/two", cwd=base)
    one, two = runs.ended(runs.start("train.py", *EPOCHS, f"hydra.run.dir={base}/one", cwd=base)), runs.ended(started)
    assert (one.code, two.code) == (0, 0), one.err + two.err
    return base / "one", base / "two"


def test_weights_agree_after_three_epochs(one_and_two):
    one, two = (runs.weights(folder / "checkpoints" / "last.ckpt") for folder in one_and_two)
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-6
    start = one["network.level"]  # a buffer: the rest has moved by a thousand times the tolerance
    assert start.equal(two["network.level"])
    assert float(one["network.decoder.6.bias"].std()) > 1e-3


def test_validation_is_exact_when_the_cells_cannot_be_shared_evenly(one_and_two):
    """Every logged number of validation; padding would count one cell twice."""
    split = pd.read_csv(one_and_two[0] / "tables" / "split.csv")
    assert (split["part"] == "validation").sum() % 2 == 1
    one, two = (pd.read_csv(folder / "history.csv") for folder in one_and_two)
    assert list(one["step"]) == list(two["step"])
    columns = [name for name in one if name.startswith("val/")]
    assert {"val/loss", "val/kl", "val/score"} <= set(columns) and one[columns].notna().any(axis=None)
    assert one[columns].notna().sum().min() == 3
    means = ["val/loss", "val/reconstruction", "val/kl"]
    np.testing.assert_allclose(one[means], two[means], rtol=1e-6)
    # Generated counts are whole numbers: a weight that differs by rounding turns one of thousands into its neighbour.
    np.testing.assert_allclose(one[columns], two[columns], atol=1e-3)


def test_training_losses_are_means_over_all_processes(one_and_two):
    one, two = (pd.read_csv(folder / "history.csv").filter(like="train/") for folder in one_and_two)
    assert one.notna().any(axis=None)
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_there_is_one_run_folder(one_and_two):
    one, two = one_and_two
    assert runs.listing(two) - runs.listing(one) <= {"train_ddp_process_1.log"}  # what the second process said
    assert runs.listing(one) <= runs.listing(two)
    assert {folder.name for folder in one.parent.iterdir()} == {"one", "two"}


def test_the_cells_of_a_step_are_shared_out_without_loss():
    """The ranks' shares of a batch are disjoint, equally large, and together the batch of one process."""
    from stormcell.config import DataConfig
    from stormcell.data.control_perturbed import ControlPerturbedDataModule
    from stormcell.data.split import held_out_cells

    config = DataConfig(name="synthetic", source="synthetic", library_key="total_counts")
    config.simulate = {
        "n_cells": 600,
        "n_genes": 120,
        "n_factors": 10,
        "n_singles": 4,
        "n_pairs": 1,
        "n_interacting": 0,
    }
    data = ControlPerturbedDataModule(config, lambda cells, seed: held_out_cells(cells, seed), batch_size=60)
    data.setup()
    for step in range(3 * data.steps_per_epoch):
        whole = data.step_rows(step)
        shares = [data.step_rows(step, rank, 3) for rank in range(3)]
        assert [len(share) for share in shares] == [20, 20, 20]
        assert sorted(np.concatenate(shares)) == sorted(whole)
