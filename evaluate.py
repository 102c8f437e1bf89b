"""Judge a checkpoint on held-out cells: python evaluate.py --help."""

import hydra

from stormcell.cli import guarded, task
from stormcell.config import register

register()


def run(cfg):
    from stormcell.examine import evaluate  # here, so that --help does not wait for torch

    return evaluate(cfg)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg):
    return task(run, cfg)


if __name__ == "__main__":
    guarded(main)
