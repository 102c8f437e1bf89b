"""Every YAML composes with the defaults, fits the functions that it calls, and runs."""

import dataclasses
import re

import pytest
import runs
from omegaconf import OmegaConf

from stormcell.check import check_calls
from stormcell.config import Config, DataConfig, UserError, register
from stormcell.data.spec import Spec

CONF = runs.ROOT / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
CHOICES = [f"{file.parent.name}={file.stem}" for file in sorted(CONF.glob("*/*.yaml"))]
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
UNPERTURBED = ["krumsiek11", "pbmc68k_reduced"]  # offline, inside scanpy
FED_BY_ANY = ["bilinear", "trilinear"]  # a graph of cells can be made of any


@pytest.fixture
def composed(tmp_path):
    """overrides → the config as train.py gets it, with Hydra's own values in place."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    register()

    def make(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
            with open_dict(config):
                config.hydra.runtime.output_dir = str(tmp_path)
                HydraConfig.instance().set_config(config)
                del config["hydra"]
            return config

    yield make
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_composes_and_fits_what_it_calls(choice, composed):
    plain = OmegaConf.to_container(composed(choice), resolve=True)
    plain["datamodule"] |= {key: None for key in ("coupling", "prior") if key in plain["datamodule"]}  # as below
    for group in ("split", "targets", "coupling", "prior"):
        plain[group] = {key: "given" if value == "???" else value for key, value in plain[group].items()}
    known = {field.name for field in dataclasses.fields(Config)}
    assert {"data", "split", "targets", "datamodule", "model", "trainer"} <= set(plain) <= known
    check_calls({key: value for key, value in plain.items() if key != "data"})
    check_calls(plain["trainer"], "trainer")
    check_calls({"_target_": "stormcell.data.simulate.simulate", **plain["data"]["simulate"]}, "data.simulate")


def test_a_wrong_argument_in_a_group_is_caught_by_the_same_check(composed):
    """The check above would pass on anything if it did not look."""
    plain = OmegaConf.to_container(composed("+model.laten=3"), resolve=True)
    with pytest.raises(UserError, match=r"model\.laten: .*'latent'"):
        check_calls({"model": plain["model"]})
    plain = OmegaConf.to_container(composed("model.optimizer.lr=abc"), resolve=True)
    with pytest.raises(UserError, match=r"model\.optimizer\.lr='abc'"):
        check_calls({"model": plain["model"]})


@pytest.mark.parametrize("file", sorted((CONF / "data").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_data_yaml_names_itself_and_has_known_keys_of_the_right_type(file):
    keys = OmegaConf.load(file)
    keys.pop("defaults", None)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), keys))
    assert config.name == file.stem
    assert config.source in ("file", "synthetic", "catalog", "scanpy")
    assert config.scale in ("counts", "log1p", "continuous")


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_no_size_of_the_data_is_typed_in_a_model(file):
    sizes = {name.removeprefix("n_") for name in vars(Spec) if name.startswith("n_")} | {"perturbations", "batches"}
    assert {"genes", "targets"} < sizes
    typed = re.findall(r"^ *(\w+):", file.read_text(), re.M)
    assert typed
    taken = {*sizes, *(f"n_{name}" for name in sizes)}
    assert not taken & set(typed)
    assert not re.findall(r"^ *\w*(?:in|out|input|output)_(?:dim|size|features):", file.read_text(), re.M)


def test_every_group_is_reached_from_the_defaults():
    """A folder that no defaults list names could not be chosen by group=option."""
    named = re.findall(r"^ +- (?:optional )?(\w+): ", (CONF / "train.yaml").read_text(), re.M)
    views = re.findall(r"/(\w+)@_global_\.", "".join(file.read_text() for file in (CONF / "model").glob("*.yaml")))
    assert set(GROUPS) == {*named, *views}


# ---- and runs: fast_dev_run, two batches of everything and the closing test


@pytest.mark.parametrize("model", MODELS)
def test_debug_runs_on_simulated_cells(model, tmp_path):
    arguments = (f"model={model}", "trainer=debug", *runs.quick(runs.CELLS, model), "hydra.run.dir=run")
    done = runs.inside("train.py", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    assert {"metrics.json", "scoreboard.csv", "report.html", "predictions.h5ad"} < runs.listing(tmp_path / "run")
    assert not list(tmp_path.rglob("*.ckpt")), "fast_dev_run leaves no checkpoint"


@pytest.mark.parametrize("data", UNPERTURBED)
@pytest.mark.parametrize("model", [model for model in MODELS if model not in FED_BY_ANY])
def test_cells_that_a_model_cannot_be_fed_with_are_refused_in_one_sentence(model, data, tmp_path):
    done = runs.inside("train.py", f"model={model}", f"data={data}", "trainer=debug", cwd=tmp_path)
    assert done.code == 2
    if model == "transition":  # needs clusters, which these have, and their order, and a network
        missing = {"krumsiek11": r".*set data\.pseudotime_key", "pbmc68k_reduced": "prior=all lets each of"}[data]
    else:
        missing = rf".*{data}.* data\.perturbation_key is null.*cell_type"
    assert re.fullmatch(rf"stormcell: {missing}.*\n", done.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", FED_BY_ANY)
def test_a_graph_is_made_of_any_cells_as_far_as_its_frequencies_go(model, tmp_path):
    """Eleven genes of one manifold, and seven hundred cells whose tenth frequency no held-out cell could be given."""
    words = (f"model={model}", "trainer=debug", "model.refits=0", "embedding=pca", "hydra.run.dir=run")
    done = runs.inside("train.py", *words, "data=krumsiek11", cwd=tmp_path)
    assert done.code == 0, done.err
    assert {"scoreboard.csv", "report.html"} < runs.listing(tmp_path / "run")
    done = runs.inside("train.py", *words[:-1], "data=pbmc68k_reduced", "hydra.run.dir=none", cwd=tmp_path)
    assert done.code == 2
    assert re.fullmatch(r"stormcell: scanpy pbmc68k_reduced: eigenvalue .* the lowest 9 can be; lower .*\n", done.err)
    assert not (tmp_path / "none").exists()
