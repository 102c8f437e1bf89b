"""A run that is killed and goes on ends as the run that nobody disturbed."""

import os
import random
import signal
import time

import anndata as ad
import pytest
import runs

pytestmark = pytest.mark.xdist_group("runs")


def kill_after(process, sign, delay):
    """SIGKILL to the whole process group, `delay` seconds after the file `sign` is there."""
    while not sign.exists():
        assert process.poll() is None, f"ended by itself: {process.stderr.read()}"
        time.sleep(0.01)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed at a random moment and gone on with, and the step it went on from."""
    import torch

    base = tmp_path_factory.mktemp("killed")
    seed = random.SystemRandom().randrange(10**6)
    delay = random.Random(seed).uniform(0, 1.0)
    print(f"killed {delay:.3f} s after the first last.ckpt (seed {seed})")
    last = base / "run" / "checkpoints" / "last.ckpt"
    kill_after(runs.start("train.py", *runs.LONG, f"hydra.run.dir={base}/run", cwd=base), last, delay)
    step = torch.load(last, weights_only=True)["global_step"]
    assert not (base / "run" / "metrics.json").exists()
    # In a process of its own, as a user's: the arithmetic of this one depends on what other tests have loaded.
    done = runs.ended(runs.start("train.py", f"ckpt={last}", cwd=tmp_path_factory.mktemp("elsewhere")))
    assert done.code == 0, done.err
    return base / "run", step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.reference(tmp_path_factory)[0]


@pytest.mark.parametrize("name", ["last", "best"])
def test_the_weights_are_equal_bit_for_bit(killed, undisturbed, name):
    folder, step = killed
    found, expected = (runs.weights(run / "checkpoints" / f"{name}.ckpt") for run in (folder, undisturbed))
    assert 0 < step < 400
    assert found.keys() == expected.keys()
    assert all(found[key].equal(expected[key]) for key in expected)


def test_the_optimizer_stands_where_it_would_have_stood(killed, undisturbed):
    import torch

    found, expected = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (killed[0], undisturbed)
    )
    assert found["global_step"] == expected["global_step"] == 400
    moments = [ckpt["optimizer_states"][0]["state"] for ckpt in (found, expected)]
    assert moments[0].keys() == moments[1].keys()
    assert all(moments[0][key]["exp_avg_sq"].equal(moments[1][key]["exp_avg_sq"]) for key in moments[1])
    assert found["lr_schedulers"] == expected["lr_schedulers"]


def test_the_numbers_tables_and_generated_cells_are_the_same(killed, undisturbed):
    folder, _ = killed
    assert runs.metrics(folder) == runs.metrics(undisturbed)
    for name in ("history.csv", "scoreboard.csv", "tables/perturbations.csv", "tables/split.csv"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    cells, expected = (ad.read_h5ad(run / "predictions.h5ad") for run in (folder, undisturbed))
    assert (cells.X != expected.X).nnz == 0
    assert runs.listing(folder) == runs.listing(undisturbed)


@pytest.fixture(scope="module")
def begun_again(tmp_path_factory):
    """Killed before the first checkpoint, then begun anew by a shorter command in the same folder."""
    base = tmp_path_factory.mktemp("begun")
    late = (*runs.LONG, "trainer.val_check_interval=400", "seed=3")
    process = runs.start("train.py", *late, f"hydra.run.dir={base}/run", cwd=base)
    kill_after(process, base / "run" / "config.yaml", random.uniform(0, 0.5))
    assert not list(base.rglob("*.ckpt"))
    (base / "run" / "history.csv").write_text("step,train/loss,old\n7,1.0,2.0\n")  # it is written every few seconds
    done = runs.inside("train.py", *runs.SHORT, f"hydra.run.dir={base}/run", cwd=base)
    assert done.code == 0, done.err
    return base / "run"


def test_a_kill_before_the_first_checkpoint_leaves_nothing_behind(begun_again, tmp_path_factory):
    fresh = runs.short(tmp_path_factory)
    assert runs.metrics(begun_again) == runs.metrics(fresh)
    assert (begun_again / "history.csv").read_bytes() == (fresh / "history.csv").read_bytes()
    assert runs.listing(begun_again) == runs.listing(fresh)


def test_the_budget_can_be_raised_when_a_run_goes_on(begun_again, tmp_path):
    """What was typed for the run is remembered, what is typed now wins."""
    import torch

    last = begun_again / "checkpoints" / "last.ckpt"
    before = (begun_again / "history.csv").read_text().splitlines()
    done = runs.inside("train.py", f"ckpt={last}", "trainer.max_steps=80", cwd=tmp_path)
    assert done.code == 0, done.err
    content = torch.load(last, weights_only=True)
    assert content["global_step"] == 80
    # The cosine had come down to its end; it must not swing up again.
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-5, rel=0.01)
    after = (begun_again / "history.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert [int(row.split(",")[0]) for row in after[len(before) :]] == [69, 79]
    assert not list(tmp_path.iterdir())


def test_a_run_that_had_stopped_early_stays_stopped(tmp_path):
    folder = tmp_path / "run"
    early = (*runs.LONG, "callbacks.early_stopping.patience=1", "model.optimizer.lr=0.03")
    assert runs.inside("train.py", *early, f"hydra.run.dir={folder}", cwd=tmp_path).code == 0
    numbers, history = runs.metrics(folder), (folder / "history.csv").read_bytes()
    weights = runs.weights(folder / "checkpoints" / "last.ckpt")
    assert int(history.splitlines()[-1].split(b",")[0]) < 399, "the learning rate is meant to spoil the score before"
    (folder / "metrics.json").unlink()  # killed in the closing test
    assert runs.inside("train.py", f"ckpt={folder}/checkpoints/last.ckpt", cwd=tmp_path).code == 0
    assert runs.metrics(folder) == numbers
    assert (folder / "history.csv").read_bytes() == history
    again = runs.weights(folder / "checkpoints" / "last.ckpt")
    assert all(weights[key].equal(again[key]) for key in weights)
