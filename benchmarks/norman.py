"""The cVAE on real Norman cells, three seeds, both splits: the README's table, beside the figures of the peers.

    STORMCELL_DATA=… python benchmarks/norman.py [--seeds 1,2,3]

Runs `train.py -m experiment=norman,norman_shared` and reads the metrics.json of each job. "shared" is the set-up in
which the peers were measured: every control cell in training, and the same ones in the truth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
GROUPS = {"pairs, 2 of 2 singles seen": "5 pairs of two seen singles", "held-out cells": "held-out cells of 28 seen"}
COLUMNS = ("shift_correlation", "shift_correlation_shared", "energy_distance", "variance_ratio")
PEERS = {  # measured on these cells in the shared set-up: shift r, energy distance, variance ratio
    "pairs, 2 of 2 singles seen": {
        "count VAE, mode A (scvi-tools)": (0.92, 0.12, 1.06),
        "latent additive": (0.92, 1.51, 0.00),
        "scGen": (0.90, 0.19, 0.01),
    },
    "held-out cells": {
        "count VAE, mode A (scvi-tools)": (0.73, 0.02, 0.80),
        "latent additive": (0.84, 1.51, 0.00),
        "scGen": (0.76, 0.25, 0.01),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "train.py", "-m", "experiment=norman,norman_shared", f"seed={seeds}",
             f"hydra.sweep.dir={folder}"],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        jobs: dict[str, list[dict]] = {"norman_shared": [], "norman": []}
        for path in sorted(Path(folder).glob("*/metrics.json")):
            overrides = yaml.safe_load((path.parent / ".hydra" / "overrides.yaml").read_text())
            name = next(o.split("=")[1] for o in overrides if o.startswith("experiment="))
            jobs[name].append(json.loads(path.read_text()))
    for name, found in jobs.items():
        print(f"\n## {'shared controls (set-up of the peers)' if name.endswith('shared') else 'default split'}")
        for group, title in GROUPS.items():
            table(title, group, found, PEERS[group] if name.endswith("shared") else {})
        print(f"fit {statistics.median(job['timing']['fit_s'] for job in found):.0f} s (median of {len(found)})")


def table(title: str, group: str, jobs: list[dict], peers: dict[str, tuple[float, ...]]) -> None:
    """Medians over the seeds."""
    print(f"\n{title}\n{'':34s} shift r   shared r   energy distance   variance ratio")
    rows = sorted({key.split("/")[1] for key in jobs[0]["test"] if key.startswith(group)})
    for row in rows:
        line(row, [[job["test"].get(f"{group}/{row}/{column}") for job in jobs] for column in COLUMNS])
    for row in jobs[0]["baselines"]:
        line(row, [[job["baselines"][row].get(f"{group}/{column}") for job in jobs] for column in COLUMNS])
    for row, (r, distance, ratio) in peers.items():
        line(f"{row} *", [[None], [r], [distance], [ratio]])
    if peers:
        print("* the peers' own figures: see benchmarks/README.md")


def line(name: str, columns: list[list[float | None]]) -> None:
    cells = []
    for values in columns:
        known = [value for value in values if value is not None]
        cells.append(f"{statistics.median(known):8.3f}" if known else "       -")
    print(f"{name:34s}{cells[0]}  {cells[1]}       {cells[2]}           {cells[3]}")


if __name__ == "__main__":
    main()
