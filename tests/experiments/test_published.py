"""Every published experiment runs from its configuration alone; here on a few samples of noise."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from scenarios.datasets import make_cifar10, make_har, make_imagenet, make_sst2, make_trec

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.mobilenet import MobileNetV1
from reflow_lightning.experiments.models.resnet import ResNet

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
QUICK = ("cifar10_resnet20", "cifar10_resnet32_2to4", "globalmp_fastgrnn_9_8", "globalmp_resnet32_95")
SPARSITY = r"_(\d\d(_\d+)?|\d_\d)(?=_mt$|$)"
FAMILIES = {re.sub(SPARSITY, "", name): name for name in EXPERIMENTS}
"""The sparsest of the experiments that differ in numbers alone, by the name that they share."""
PATTERNED = {name: f"{name}_2to4" for name in FAMILIES if name.startswith("reflow") and f"{name}_2to4" in FAMILIES}
"""Experiments of which a variant with a pattern is run instead, since a pattern has to fit every layer."""
PUBLISHED = {  # every row of the tables of arXiv 2209.14624
    "globalmp_wrn28_8_90": 0.9630,
    "globalmp_wrn28_8_95": 0.9616,
    "globalmp_wrn28_8_97_5": 0.9568,
    "globalmp_resnet32_90": 0.9267,
    "globalmp_resnet32_95": 0.9065,
    "globalmp_resnet50_80": 0.7684,
    "globalmp_resnet50_90": 0.7528,
    "globalmp_resnet50_95_3": 0.7156,
    "globalmp_resnet50_98_05": 0.6180,
    "globalmp_resnet50_gradual_80": 0.7612,
    "globalmp_resnet50_gradual_90": 0.7483,
    "globalmp_resnet50_gradual_95_3": 0.7214,
    "globalmp_resnet50_gradual_98_05": 0.6657,
    "globalmp_mobilenet_v1_75_28": 0.7074,
    "globalmp_mobilenet_v1_90": 0.5949,
    "globalmp_mobilenet_v1_90_mt": 0.6394,
    "globalmp_wrn22_8_99_9": 0.6768,
    "globalmp_mobilenet_v2_98": 0.10,
    "globalmp_mobilenet_v2_98_mt": 0.8297,
    "globalmp_fastgrnn_9_8": 0.9589,
    "globalmp_fastgrnn_9_7": 0.9572,
    "globalmp_fastgrnn_8_7": 0.9562,
}


def composed(experiment, *overrides):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose("config", overrides=[f"experiment={experiment}", "title=test", *overrides])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_cifar10(folder), make_imagenet(folder), make_har(folder), make_sst2(folder), make_trec(folder)
    torch.manual_seed(0)
    nets = {"resnet20": ResNet(3), "resnet32": ResNet(5), "mobilenet_v1": MobileNetV1()}
    for name, net in nets.items():
        torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, folder / name)
    return folder


def shrunk(experiment, data):
    """The experiment as it is, on the small data: shorter, with smaller images, and without downloaded weights."""
    cfg = composed(experiment, f"data_dir={data}", "reflow.calibration_batches=1")
    cfg.trainer.update(limit_train_batches=2, limit_val_batches=1, limit_test_batches=1)
    cfg.data.update(batch_size=4, calibration_batch_size=4)
    if not cfg.train and "weights" not in cfg:
        cfg.ckpt = str(data / re.search("resnet20|resnet32|mobilenet_v1", experiment)[0])
    if "preprocessing" in cfg:
        small = {"_target_": "reflow_lightning.experiments.data.images.Preprocessing", "crop": 32, "resize": 36}
        cfg.preprocessing = small
        cfg.data.num_workers = 0
        cfg.data.val_share = 0.2
    if "verify" in cfg.data:
        cfg.data.verify = False
    cfg.epochs, cfg.finetune_epochs = min(cfg.epochs, 3), min(cfg.finetune_epochs, 2)
    for recipe in (cfg, cfg.pretrain or cfg):
        if recipe.scheduler.get("warmup_epochs"):
            recipe.scheduler.warmup_epochs = 1
    if cfg.pretrain is not None:
        cfg.pretrain.update(total_epochs=2, batch_size=4)
    return cfg


@pytest.fixture
def no_download(monkeypatch):
    """Random weights where torchvision would download its own."""
    real = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, **options: real(name, **options))


@pytest.mark.parametrize(
    "experiment",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for family, name in FAMILIES.items()
        if family not in PATTERNED
    ],
)
@pytest.mark.filterwarnings("ignore:.*leaves no weight in", "ignore:.*batches instead of", "ignore:.*schedule.*")
def test_it_runs_from_end_to_end(experiment, data, tmp_path, no_download):
    cfg = shrunk(experiment, data)
    report = run(cfg, tmp_path)
    assert report["sparsity"] == pytest.approx(cfg.sparsity, abs=1e-4)
    last = list(report["stages"])[-1]
    assert report["stages"][last]["sparsity"] >= report["sparsity"] - 1e-9  # the zeros stayed
    gradual = cfg.schedule._target_.endswith("Gradual")
    assert ("final" in report["stages"]) == (bool(cfg.train and cfg.finetune_epochs) or gradual)
    assert report["paper"] == cfg.paper
    assert report["cost"]["effective"] < report["cost"]["multiply_adds"]


@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - set(FAMILIES.values())))
def test_it_differs_in_numbers_alone_from_the_one_of_its_family_that_is_run(experiment):
    both = [experiment, FAMILIES[re.sub(SPARSITY, "", experiment)]]
    here, there = (settings(OmegaConf.to_container(composed(name), resolve=False)) for name in both)
    assert here.keys() == there.keys()
    differing = [key for key in here if here[key] != there[key]]
    assert ".sparsity" in differing
    assert all(type(value[key]) in (int, float) for value in (here, there) for key in differing)


@pytest.mark.parametrize("family", PATTERNED)
def test_it_differs_from_its_variant_with_a_pattern_in_the_target_alone(family):
    cases = (FAMILIES[family], PATTERNED[family])
    here, there = (settings(OmegaConf.to_container(composed(name, "++ckpt=file"), resolve=False)) for name in cases)
    differing = {key for key in here | there if here.get(key) != there.get(key)}
    of_target = {".sparsity", ".pattern", ".exclude"}
    assert of_target <= differing
    assert all(key in of_target or key.startswith(".published") for key in differing)


def settings(config, above=""):
    """The values of a configuration, by their whole names."""
    if not isinstance(config, dict):
        return {above: config}
    return {key: value for name, inner in config.items() for key, value in settings(inner, f"{above}.{name}").items()}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_names_its_paper_and_the_published_number(experiment):
    cfg = composed(experiment, "++ckpt=file")
    header = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    assert "arXiv" in cfg.paper
    assert re.search(r"arXiv \d{4}\.\d{5}", header)[0] in cfg.paper
    if experiment in PUBLISHED:
        assert cfg.published.final == PUBLISHED[experiment]
        assert f"{100 * cfg.published.final:.2f}".rstrip("0").rstrip(".") in header
    assert 0 < cfg.sparsity < 1


RECIPES = {  # epochs, batch, lr, momentum, weight decay, nesterov, warm-up, label smoothing; then of the dense training
    "wrn28_8_90": ((200, 128, 0.0512, 0.9, 0, True, 0, 0.1), (200, 128, 0.1, 0.875, 5e-4, True)),
    "wrn28_8_95": ((200, 128, 0.0256, 0.9, 2e-5, True, 0, 0.1), (200, 128, 0.1, 0.875, 5e-4, True)),
    "wrn28_8_97_5": ((200, 128, 0.0128, 0.9, 0, True, 0, 0.1), (200, 128, 0.1, 0.875, 5e-4, True)),
    "resnet32_90": ((300, 128, 0.01, 0.9, 1e-3, False, 0, 0.1), (300, 128, 0.05, 0.9, 1e-3, False)),
    "resnet32_95": ((300, 128, 0.01, 0.9, 1e-5, False, 0, 0.1), (300, 128, 0.05, 0.9, 1e-3, False)),
    "resnet50_80": ((100, 256, 0.0256, 0.875, 2.3e-5, False, 5, 0.1), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "resnet50_90": ((100, 256, 0.1024, 0.875, 7e-6, False, 0, 0.1), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "resnet50_95_3": ((100, 256, 0.0512, 0.95, 0, False, 0, 0.05), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "resnet50_98_05": ((100, 256, 0.0512, 0.95, 0, False, 0, 0.05), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "resnet50_gradual_80": ((100, 256, 0.256, 0.875, 3.1e-5, False, 5, 0.1), None),
    "resnet50_gradual_98_05": ((100, 256, 0.256, 0.875, 3.1e-5, False, 5, 0.1), None),
    "mobilenet_v1_75_28": ((120, 256, 0.0512, 0.875, 1e-5, False, 0, 0.1), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "mobilenet_v1_90": ((120, 256, 0.0256, 0.875, 1e-5, False, 0, 0.1), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "mobilenet_v1_90_mt": ((120, 256, 0.0512, 0.875, 0, False, 0, 0.1), (100, 256, 0.256, 0.875, 3.1e-5, False)),
    "wrn22_8_99_9": ((80, 64, 0.1, 0.9, 5e-4, True, None, 0.1), (30, 256, 0.1, 0.9, 5e-4, True)),
    "mobilenet_v2_98": ((200, 64, 0.1, 0.9, 5e-4, True, None, 0.1), (200, 450, 0.1, 0.9, 5e-4, True)),
    "mobilenet_v2_98_mt": ((200, 64, 0.1, 0.9, 5e-4, True, None, 0.1), (200, 450, 0.1, 0.9, 5e-4, True)),
}


def of_optimizer(optimizer):
    return (optimizer.lr, optimizer.momentum, optimizer.weight_decay, optimizer.nesterov)


@pytest.mark.parametrize("experiment", RECIPES)
def test_its_recipe_is_that_of_the_paper(experiment):
    """Section A of the appendix of arXiv 2209.14624."""
    cfg = composed(f"globalmp_{experiment}")
    warmup = cfg.scheduler.get("warmup_epochs")
    found = (cfg.total_epochs, cfg.data.batch_size, *of_optimizer(cfg.optimizer), warmup, cfg.label_smoothing)
    dense = cfg.pretrain and (cfg.pretrain.total_epochs, cfg.pretrain.batch_size, *of_optimizer(cfg.pretrain.optimizer))
    assert (found, dense) == RECIPES[experiment]
    thresholds = {"mobilenet_v1_90_mt": 0.002, "mobilenet_v2_98_mt": 0.0002}
    assert cfg.min_kept == thresholds.get(experiment, 0.0)


def test_the_steps_of_the_step_schedules():
    for experiment, step, gamma, dense in (("wrn22_8_99_9", 40, 0.1, 25), ("mobilenet_v2_98", 25, 0.56, 25)):
        cfg = composed(f"globalmp_{experiment}")
        assert (cfg.scheduler.step_size, cfg.scheduler.gamma) == (step, gamma)
        assert (cfg.pretrain.scheduler.step_size, cfg.pretrain.scheduler.gamma) == (dense, gamma)


@pytest.mark.parametrize(("ranks", "batch", "rate"), [("9_8", 64, 0.5), ("9_7", 100, 0.5), ("8_7", 100, 0.55)])
def test_the_recipes_of_fastgrnn(ranks, batch, rate):
    cfg = composed(f"globalmp_fastgrnn_{ranks}")
    assert (cfg.total_epochs, cfg.data.batch_size, cfg.optimizer.lr) == (300, batch, rate)
    assert (cfg.pretrain.total_epochs, cfg.pretrain.batch_size, cfg.pretrain.optimizer.lr) == (300, 100, 0.0064)
    assert (cfg.model.hidden_size, cfg.model.rank_w, cfg.model.rank_u) == (80, 9, 80)


def test_published_numbers_are_shown_at_their_sparsity_only(data, tmp_path):
    cfg = shrunk("globalmp_fastgrnn_9_8", data)
    assert run(cfg, tmp_path)["published"] == {"dense": 0.961, "final": 0.9589}
    cfg.published.sparsity = 0.5
    assert run(cfg, tmp_path)["published"] == {"dense": 0.961}


def test_every_published_row_has_its_file():
    networks = ("mobilenet_v1", "resnet50", "resnet101", "resnet152", "resnext101", "regnet_x_32gf")
    reflow = {f"reflow_{network}_{kind}" for network in networks for kind in ("80", "2to4")}
    assert set(PUBLISHED) | reflow | {"cifar10_resnet20", "cifar10_resnet32"} <= set(EXPERIMENTS)
