"""The stream of batches: every cell once a lap, full batches, and the same cells whatever the number of processes."""

from types import SimpleNamespace

import numpy as np
import pytest

from stormcell.config import DataConfig, UserError
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.data.stream import Steps, cells_of_step


def module(n_train=100, n_validation=0, batch_size=12, seed=3):
    """A data module that stands after its set-up, with rows and without cells."""
    data = ControlPerturbedDataModule(DataConfig(name="rows"), split=None, seed=seed, batch_size=batch_size)
    data.rows = {"train": np.arange(n_train) * 3 + 7, "validation": np.arange(n_validation) * 2 + 1}
    data.batch = lambda rows: rows.tolist()
    return data


def numbered(data):
    """The training batches beside the number of their step."""
    return lambda step, *who: (step, data.train_batch(step, *who))


def trainer(done=0, rank=0, world=1):
    progress = SimpleNamespace(total=SimpleNamespace(completed=done))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, global_rank=rank, world_size=world)


@pytest.mark.parametrize(("n", "batch_size"), [(100, 10), (100, 12), (97, 32), (5, 13), (1, 4), (7, 7)])
def test_every_lap_is_a_permutation_cut_into_full_batches(n, batch_size):
    steps = [cells_of_step(step, n, batch_size, seed=5) for step in range(4 * n // batch_size + 4)]
    assert all(len(step) == batch_size for step in steps)
    line = np.concatenate(steps)
    laps = line[: len(line) // n * n].reshape(-1, n)
    assert len(laps) >= 4
    assert (np.sort(laps, axis=1) == np.arange(n)).all()
    if n > 5:
        assert not (laps[0] == laps[1]).all()
        assert (
            np.concatenate([cells_of_step(step, n, batch_size, seed=6) for step in range(len(steps))]) != line
        ).any()


def test_a_lap_is_no_pattern():
    """Positions of one cell in many laps are uniform, and uncorrelated from lap to lap."""
    places = np.array([np.argsort(cells_of_step(lap, 50, 50, seed=1)) for lap in range(400)])
    assert abs(places[:, 0].mean() - 24.5) < 4 * 14.4 / 20
    assert abs(np.corrcoef(places[:-1, 0], places[1:, 0])[0, 1]) < 4 / 20


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_the_ranks_together_compute_the_batch_of_one_process(world):
    data = module(batch_size=12)
    for step in range(20):
        whole = data.step_rows(step)
        shards = [data.step_rows(step, rank, world) for rank in range(world)]
        assert {len(shard) for shard in shards} == {12 // world}
        assert np.array_equal(np.stack(shards, 1).ravel(), whole)
        assert set(whole) <= set(data.rows["train"])


def test_a_batch_that_does_not_divide_among_the_processes_is_refused():
    data = module(batch_size=10)
    data.trainer = trainer(world=3)
    with pytest.raises(UserError, match=r"datamodule.batch_size=10 does not divide among 3 processes"):
        data.train_dataloader()


@pytest.mark.parametrize(("n_train", "batch_size"), [(100, 12), (96, 12), (12, 12), (97, 32)])
def test_going_on_from_any_step_gives_the_same_stream(n_train, batch_size):
    data = module(n_train, batch_size=batch_size)
    lap = data.steps_per_epoch
    assert lap == len(Steps(trainer(), data.steps_per_epoch, numbered(data))) == -(-n_train // batch_size)
    whole = [
        batch for epoch in range(3) for batch in Steps(trainer(done=epoch * lap), data.steps_per_epoch, numbered(data))
    ]
    assert [step for step, _ in whole] == list(range(3 * lap))
    for done in range(2 * lap):
        rest = list(Steps(trainer(done=done), data.steps_per_epoch, numbered(data)))
        assert rest == whole[done : (done // lap + 1) * lap]
        assert rest


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (1, 4), (13, 4), (17, 8), (203, 64), (64, 64), (65, 64)])
def test_validation_counts_every_cell_once(n, batch_size, world):
    data = module(n_validation=n, batch_size=batch_size)
    seen = []
    for rank in range(world):
        chunks = data.chunks("validation", rank, world)
        batches = list(chunks)
        assert len(batches) == len(chunks)
        assert all(1 <= len(rows) <= batch_size for rows in batches)
        seen += [row for rows in batches for row in rows]
    assert sorted(seen) == data.rows["validation"].tolist()
    if n % batch_size == 1 and world == 1:
        assert len(batches[-1]) == 1
