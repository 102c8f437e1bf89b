"""What the loggers keep: W&B (offline), TensorBoard, and history.csv."""

import json
import struct
import time

import numpy as np
import pandas as pd
import pytest
import runs

pytestmark = pytest.mark.xdist_group("runs")

FIGURES = {"generation", "forest", "shift_heatmap", "shifts", "model_against_baseline", "ranks", "calibration", "loss"}


def records(run):
    """The records of W&B's offline file: a LevelDB log (blocks of 32 KiB, chunks of crc, length, kind) of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = run.glob("*.wandb")
    content, place, whole, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the only, or the last chunk of a record
            found.append(Record.FromString(whole))
            whole = b""
    return found


def only_run(folder):
    """The one W&B run below a job's folder."""
    [run] = (folder / "wandb").glob("offline-run-*")
    return run


def updates(run, kind):
    """key → value of the config or the summary of a run."""
    found = {}
    for record in records(run):
        if record.WhichOneof("record_type") == kind:
            for item in getattr(record, kind).update:
                found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found


def exit_codes(run):
    """The exit codes in the file. W&B's own process writes it, and on a busy machine after `finish` has returned."""
    for _ in range(60):
        found = [record.exit.exit_code for record in records(run) if record.WhichOneof("record_type") == "exit"]
        if found:
            return found
        time.sleep(0.5)
    return []


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The two jobs of a sweep that logs to W&B."""
    sweep = runs.sweep(tmp_path_factory)
    return [sweep / "0", sweep / "1"]


def test_every_job_of_a_sweep_is_a_run_of_its_own_and_closed(jobs):
    names = [only_run(job).name.rsplit("-", 1)[1] for job in jobs]
    assert names[0] != names[1]
    for job in jobs:
        assert exit_codes(only_run(job)) == [0]


def test_wandb_shows_the_figures_as_images(jobs):
    for job in jobs:
        media = list((only_run(job) / "files" / "media" / "images").glob("*.png"))
        drawn = {file.read_bytes() for file in (job / "figures").glob("*.png")}
        assert len(drawn) == len(FIGURES)
        assert {file.read_bytes() for file in media} == drawn
        assert {file.name.rsplit("_", 2)[0] for file in media} == FIGURES


def test_wandb_shows_the_scoreboard_as_a_table(jobs):
    for job in jobs:
        [file] = (only_run(job) / "files" / "media" / "table").glob("scoreboard*.table.json")
        table = json.loads(file.read_text())
        board = pd.read_csv(job / "scoreboard.csv")
        assert table["columns"] == list(board)
        shown = pd.DataFrame(table["data"], columns=table["columns"])
        assert list(shown["method"]) == list(board["method"])
        numbers = board.columns[2:]
        np.testing.assert_allclose(shown[numbers].astype(float), board[numbers].astype(float), rtol=1e-12)


def test_wandb_has_the_config_the_losses_and_the_test_metrics(jobs):
    for seed, job in enumerate(jobs, 1):
        run = only_run(job)
        config, summary = updates(run, "config"), updates(run, "summary")
        assert config["seed"] == seed and config["model"]["_target_"] == "stormcell.models.cvae.CVAE"
        test = runs.metrics(job)["test"]
        assert {f"test/{name}": value for name, value in test.items() if value is not None}.items() <= summary.items()
        last = pd.read_csv(job / "history.csv")["val/score"].dropna().iloc[-1]
        assert summary["val/score"] == pytest.approx(last)


def test_a_run_that_fails_is_marked_failed_and_closed(tmp_path, monkeypatch):
    """A bug in the closing test is a traceback; W&B must hear of it, and the next run must not land in this one."""
    import wandb

    def broken(*arguments):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("stormcell.run._closing_test", broken)
    logged = ("logger=wandb", "logger.wandb.offline=true", "hydra.run.dir=run")
    with pytest.raises(ZeroDivisionError, match="planted"):
        runs.inside("train.py", *runs.SHORT, "trainer.max_steps=20", *logged, cwd=tmp_path)
    assert wandb.run is None
    assert exit_codes(only_run(tmp_path / "run")) == [1]
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_tensorboard_has_the_curves_the_figures_and_the_scoreboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = runs.inside("train.py", *runs.SHORT, "logger=tensorboard", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / "run"
    events = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0, "images": 0, "scalars": 0}).Reload()
    assert set(events.Tags()["images"]) == FIGURES
    history = pd.read_csv(folder / "history.csv").set_index("step")
    for name in ("train/loss", "val/score"):
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert logged == pytest.approx(history[name].dropna().to_dict(), rel=1e-6)
    for name, value in runs.metrics(folder)["test"].items():
        if value is not None:
            assert events.Scalars(f"test/{name}")[-1].value == pytest.approx(value, rel=1e-6)
    assert {"verdict/text_summary", "scoreboard/text_summary"} <= set(events.Tags()["tensors"])


# ---- history.csv


def history(folder):
    return pd.read_csv(folder / "history.csv").set_index("step")


@pytest.fixture
def stopped(tmp_path):
    """The table of a run that was stopped at step 29, and its last checkpoint."""
    from stormcell.history import History

    table = History(str(tmp_path))
    for step in (9, 19, 29):
        table.log_metrics({"train/loss": 100.0 - step, "epoch": 0}, step)
    table.log_metrics({"val/score": 0.25}, 29)
    table.finalize("success")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    return tmp_path


def test_history_goes_on_in_the_same_table(stopped):
    from stormcell.history import History

    table = History(str(stopped))
    table.log_metrics({"train/loss": 7.0, "train/kl": 1.0}, 39)
    table.finalize("success")
    assert list(history(stopped).index) == [9, 19, 29, 39]
    assert list(history(stopped)["train/loss"]) == [91, 81, 71, 7]
    assert history(stopped)["val/score"].dropna().to_dict() == {29: 0.25}
    assert history(stopped)["train/kl"].dropna().to_dict() == {39: 1.0}


def test_what_was_logged_after_the_checkpoint_is_taken_back(stopped):
    """The run goes on from step 9 and ends at 19: step 29 was never made by these weights."""
    from stormcell.history import History

    table = History(str(stopped))
    table.log_metrics({"train/loss": 5.0}, 19)
    table.finalize("success")
    assert history(stopped)["train/loss"].to_dict() == {9: 91, 19: 5}


def test_a_table_without_a_checkpoint_is_not_gone_on_with(stopped):
    from stormcell.history import History

    (stopped / "checkpoints" / "last.ckpt").unlink()
    table = History(str(stopped))
    table.log_metrics({"train/loss": 5.0}, 4)
    table.finalize("success")
    assert history(stopped)["train/loss"].to_dict() == {4: 5}
