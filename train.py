"""Train a model and judge it on held-out cells: python train.py --help."""

import hydra

from stormcell.cli import guarded, task
from stormcell.config import register

register()


def run(cfg):
    from stormcell.run import train  # here, so that --help does not wait for torch

    return train(cfg)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg):
    return task(run, cfg)


if __name__ == "__main__":
    guarded(main)
