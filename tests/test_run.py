"""A run: the folder that it leaves, the numbers that come back from its checkpoint, and what is refused."""

import html
import json
import re
from html.parser import HTMLParser

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import runs
from scipy.sparse import csr_matrix

from stormcell.evaluation.roster import CONTEXTUAL, LABELS, MULTI_HOT

pytestmark = pytest.mark.xdist_group("runs")

BASELINES = [label for key, label in LABELS.items() if key not in (*CONTEXTUAL, *MULTI_HOT)]
CEILINGS = ["split-half of the real cells", "exact mean (expected)"]
GROUPS = ["held-out cells", "pairs, 2 of 2 singles seen"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return runs.reference(tmp_path_factory)


@pytest.fixture(scope="module")
def folder(reference):
    return reference[0]


# ---- the folder


def test_the_run_folder_holds_what_the_design_names_and_nothing_else(folder):
    names = [
        "generation",
        "forest",
        "shift_heatmap",
        "shifts",
        "model_against_baseline",
        "ranks",
        "calibration",
        "loss",
    ]
    tables = ["perturbations", "split", "rescaled", "methods", "interactions", "calibration"]
    named = {f"figures/{name}.png" for name in names} | {f"tables/{name}.csv" for name in tables}
    assert runs.listing(folder) == named | {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml", "train.log",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "history.csv", "metrics.json", "scoreboard.csv",
        "predictions.h5ad", "report.html",
    }  # fmt: skip
    assert not [name for name in runs.listing(folder) if "=" in name]


def test_metrics_json_is_flat_and_says_the_same_as_the_scoreboard(folder):
    found = json.loads((folder / "metrics.json").read_text())
    assert list(found) == ["test", "baselines", "data", "versions", "timing"]
    assert set(found["baselines"]) == set(BASELINES)
    assert {"fit_s", "cells_per_s", "peak_rss_mb"} <= set(found["timing"])
    assert re.fullmatch("[0-9a-f]{64}", found["data"]["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", found["data"]["split_sha256"])
    board = pd.read_csv(folder / "scoreboard.csv").set_index(["group", "method"])
    for name, value in found["test"].items():
        group, method, metric = name.split("/")
        expected = board.loc[(group, method), metric]
        assert (np.nan if value is None else value) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    for method, numbers in found["baselines"].items():
        for name, value in numbers.items():
            group, metric = name.split("/")
            assert (np.nan if value is None else value) == pytest.approx(
                board.loc[(group, method), metric], rel=1e-12, nan_ok=True
            )


def test_the_scoreboard_has_both_modes_every_baseline_and_the_ceilings(folder):
    board = pd.read_csv(folder / "scoreboard.csv")
    assert list(board["group"].unique()) == GROUPS
    for _, rows in board.groupby("group"):
        assert list(rows["method"]) == ["cvae, mode A", "cvae, mode B", *BASELINES, *CEILINGS]
    metrics = [name.removesuffix("_low") for name in board if name.endswith("_low")]
    assert {"shift_correlation", "shift_correlation_shared", "jaccard_25", "jaccard_50", "jaccard_100"} < set(metrics)
    assert {"l2", "mse", "energy_distance", "variance_ratio"} < set(metrics)
    for name in metrics:
        given = board[board[name].notna()]
        assert len(given) >= 10
        assert (given[f"{name}_low"] <= given[name]).all() and (given[name] <= given[f"{name}_high"]).all()


def test_predictions_are_cells_of_both_modes_under_every_tested_perturbation(folder):
    cells = ad.read_h5ad(folder / "predictions.h5ad")
    split = pd.read_csv(folder / "tables" / "split.csv")
    tested = set(split.loc[split["part"] == "test", "condition"])
    assert cells.n_vars == 200
    for _, rows in cells.obs.groupby("method", observed=True):
        assert set(rows["perturbation"]) == tested
    assert np.isfinite(cells.X.data).all() and cells.X.data.min() >= 0


class Loaded(HTMLParser):
    """Addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("src", "srcset", "poster", "data") or (key == "href" and tag == "link"):
                self.addresses.append(value)
            if key == "style":
                self.addresses += re.findall(r"url\(['\"]?([^)'\"]+)", value or "")


def test_the_report_opens_without_a_network_and_says_what_the_screen_said(folder, reference):
    page = (folder / "report.html").read_text()
    reader = Loaded()
    reader.feed(page)
    assert sum(address.startswith("data:image/png") for address in reader.addresses) == 8
    assert not [address[:80] for address in reader.addresses if not address.startswith("data:")]
    assert "@import" not in page and not re.findall(r"url\((?!['\"]?(?:data:|#))", page)
    said = " ".join(reference[1].out.split())
    verdict = re.search(r"held-out cells \(n = \d+\): the real cells reproduce .{40}", said)[0]
    shown = " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())
    assert re.sub(r"\s", "", verdict) in re.sub(r"\s", "", shown)
    assert json.loads((folder / "metrics.json").read_text())["data"]["split_sha256"][:12] in page
    assert f"hydra.run.dir={folder}" in shown and "trainer.max_steps=400" in shown


def test_the_last_lines_name_the_folder_and_the_command_that_judges_again(folder, reference):
    last = reference[1].out.rstrip().splitlines()[-3:]
    assert last[0].split() == ["folder", str(folder)]
    assert last[2].split(maxsplit=1)[1] == f"python evaluate.py ckpt={folder}/checkpoints/best.ckpt"


# ---- the same numbers again


def test_one_seed_gives_one_set_of_numbers_and_another_seed_gives_others(tmp_path_factory):
    """A run alone and the first job of a sweep; loggers play no part."""
    alone, jobs = runs.short(tmp_path_factory), runs.sweep(tmp_path_factory)
    assert runs.metrics(alone) == runs.metrics(jobs / "0")
    assert (alone / "history.csv").read_bytes() == (jobs / "0" / "history.csv").read_bytes()
    assert (alone / "scoreboard.csv").read_bytes() == (jobs / "0" / "scoreboard.csv").read_bytes()
    assert runs.metrics(alone)["test"] != runs.metrics(jobs / "1")["test"]


def same_numbers(one, other):
    for part in ("test", "baselines"):
        assert runs.metrics(one)[part] == runs.metrics(other)[part]


def test_the_checkpoint_alone_gives_the_numbers_of_the_closing_test(folder, tmp_path):
    """To the last digit, in another process and another working folder, from nothing but the file."""
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((folder / "checkpoints" / "best.ckpt").read_bytes())
    done = runs.ended(runs.start("evaluate.py", f"ckpt={alone}", cwd=tmp_path))
    assert done.code == 0, done.err
    [again] = (tmp_path / "outputs" / "evaluate").iterdir()
    same_numbers(again, folder)


@pytest.fixture(scope="module")
def of_a_file(tmp_path_factory):
    """A run on cells of a file: the cells, their folder, and the run folder."""
    from stormcell.data.simulate import simulate

    home = tmp_path_factory.mktemp("home")
    made = simulate(n_cells=900, n_genes=200, n_singles=6, n_pairs=2, n_interacting=0, seed=4)
    cells = ad.AnnData(csr_matrix(made.counts), obs=made.obs, var=pd.DataFrame(index=made.genes))
    cells.write_h5ad(home / "mine.h5ad")
    keys = ("data=h5ad", "data.path=mine.h5ad", "data.batch_key=batch", "data.library_key=total_counts")
    short = [word for word in runs.SHORT if not word.startswith("data.simulate")]
    done = runs.inside("train.py", *keys, *short, f"hydra.run.dir={home}/run", cwd=home)
    assert done.code == 0, done.err
    return cells, home, home / "run"


def evaluated(run, cells, tmp_path, name):
    cells.write_h5ad(tmp_path / f"{name}.h5ad")
    arguments = (f"ckpt={run}/checkpoints/best.ckpt", f"data.path={name}.h5ad", f"hydra.run.dir={tmp_path / name}")
    return runs.inside("evaluate.py", *arguments, cwd=tmp_path)


def test_the_same_file_elsewhere_gives_the_closing_test_again(of_a_file, tmp_path):
    _, home, run = of_a_file
    (tmp_path / "copied.h5ad").write_bytes((home / "mine.h5ad").read_bytes())
    arguments = (f"ckpt={run}/checkpoints/best.ckpt", "data.path=copied.h5ad", "hydra.run.dir=again")
    assert runs.inside("evaluate.py", *arguments, cwd=tmp_path).code == 0
    same_numbers(tmp_path / "again", run)


def test_the_order_of_cells_and_genes_in_another_file_plays_no_part(of_a_file, tmp_path):
    cells, _, run = of_a_file
    rng = np.random.default_rng(0)
    shuffled = cells[rng.permutation(cells.n_obs), rng.permutation(cells.n_vars)].copy()
    assert list(shuffled.var_names) != list(cells.var_names)
    noted = cells.copy()
    noted.obs["note"] = "another file"
    for file, name in ((noted, "noted"), (shuffled, "shuffled")):
        done = evaluated(run, file, tmp_path, name)
        assert done.code == 0, done.err
    same_numbers(tmp_path / "noted", tmp_path / "shuffled")
    told = " ".join(done.out.split())
    assert "cells of another file" in told
    assert "most were seen in training" in told
    fewer = evaluated(run, cells[: cells.n_obs // 2].copy(), tmp_path, "fewer")
    assert fewer.code == 0, fewer.err
    assert "cells of another file" in " ".join(fewer.out.split())
    assert "seen in training" not in " ".join(fewer.out.split())


def test_a_missing_gene_is_refused_by_name(of_a_file, tmp_path):
    cells, _, run = of_a_file
    lacking = cells.var_names[7]
    done = evaluated(run, cells[:, cells.var_names != lacking].copy(), tmp_path, "lacking")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "lacking.h5ad" in done.err and lacking in done.err and "200 genes" in done.err
    assert not (tmp_path / "lacking").exists()


# ---- what is refused, and help


def test_help_lists_the_groups_and_five_examples_without_importing_torch(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-X", "importtime", str(runs.ROOT / "train.py"), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=runs.environment(), capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in shown.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "pytorch_lightning", "scanpy", "anndata", "pandas", "matplotlib", "wandb"}
    assert len(re.findall(r"^ +python train\.py", shown.stdout, re.M)) >= 5
    for group in ("model", "data", "split", "trainer", "callbacks", "logger", "sweep"):
        options = {file.stem for file in (runs.ROOT / "conf" / group).glob("*.yaml")}
        listed = re.search(rf"^ *{group}: (.+)$", shown.stdout, re.M)
        assert listed and set(listed[1].split(", ")) == options


def contents(folder):
    return {name: (folder / name).read_bytes() for name in runs.listing(folder)}


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(script, folder, tmp_path):
    """Hydra writes .hydra before it calls us; a resumed run reads its command from there."""
    before = contents(folder)
    ckpt = [f"ckpt={folder}/checkpoints/best.ckpt"] if script == "evaluate.py" else ["seed=5"]
    done = runs.inside(script, *ckpt, f"hydra.run.dir={folder}", cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1 and str(folder) in done.err
    assert contents(folder) == before


def test_several_devices_under_m_are_refused_with_the_ways_that_work(tmp_path):
    done = runs.inside("train.py", "-m", "seed=1,2", "trainer.devices=2", "hydra.sweep.dir=jobs", cwd=tmp_path)
    assert done.code == 2
    assert "trainer.devices=2 under -m" in done.err
    assert "trainer.devices=1" in done.err and "submitit" in done.err and "one command per job" in done.err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_torchrun_needs_one_folder_for_all_processes(tmp_path):
    done = runs.inside("train.py", cwd=tmp_path, TORCHELASTIC_RUN_ID="7")
    assert done.code == 2 and "hydra.run.dir" in done.err
    assert not list(tmp_path.iterdir())
