"""Every choice of every group makes what it names."""

import inspect

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from reflow_lightning import Reflow
from reflow_lightning.experiments.overrides import config_groups

NAMED = {"torchvision": ("name=mobilenet_v3_small",), "timm": ("name=mobilenetv3_small_050",)}
TEXT = {
    "text_transformer": (),
    "transformers": (
        "model.config={model_type:bert,hidden_size:8,num_hidden_layers:1,num_attention_heads:2,intermediate_size:16}",
    ),
}
IMAGES = [name for name in config_groups()["model"] if name not in ("fastgrnn", "signal_cnn", "own", *TEXT)]


def composed(*overrides):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose("config", overrides=["title=test", *overrides])


@pytest.mark.parametrize("model", IMAGES)
def test_networks_for_images_give_logits(model):
    on_imagenet = model in ("mobilenet_v1", "mobilenet_v2", *NAMED)
    cfg = composed(f"data={'imagenet' if on_imagenet else 'cifar10'}", f"model={model}", *NAMED.get(model, ()))
    net = instantiate(cfg.model).eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, cfg.num_classes)


@pytest.mark.parametrize("model", ["vit", "convnext", "vgg", "gru"])
def test_networks_without_batchnorm_fit_the_digits(model):
    cfg = composed("data=digits", f"model={model}")
    assert instantiate(cfg.model)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("model", ["fastgrnn", "signal_cnn", "gru"])
@pytest.mark.parametrize(("data", "classes"), [("har2", 2), ("har6", 6)])
def test_networks_for_signals_give_logits(model, data, classes):
    cfg = composed(f"data={data}", f"model={model}")
    assert instantiate(cfg.model)(torch.zeros(3, 128, 9)).shape == (3, classes)
    assert instantiate(cfg.data).task == ("har2" if classes == 2 else "activities")


@pytest.mark.parametrize("model", TEXT)
@pytest.mark.parametrize(("data", "classes"), [("sst2", 2), ("trec", 6)])
def test_networks_for_sentences_give_logits(model, data, classes):
    cfg = composed(f"data={data}", f"model={model}", "vocabulary_size=50", *TEXT[model])
    ids = torch.tensor([[1, 49, 3]])
    assert instantiate(cfg.model)(input_ids=ids, attention_mask=torch.ones_like(ids)).shape == (1, classes)
    assert instantiate(cfg.data).vocabulary_size == 50


def test_the_tokenizer_is_that_of_the_model_if_it_has_one():
    assert composed("data=sst2", "model=transformers", "name=folder").data.tokenizer == "folder"
    assert composed("data=sst2", "model=transformers", "name=folder", "tokenizer=words").data.tokenizer == "words"
    assert composed("data=sst2", "model=transformers").data.tokenizer == "bpe"


@pytest.mark.parametrize("data", [name for name in config_groups()["data"] if name != "own"])
def test_data_modules_have_loaders_for_training_calibration_validation_and_test(data):
    if data == "imagenet_stream":
        pytest.importorskip("litdata")
    module = instantiate(composed(f"data={data}").data)
    for split in ("train", "calibration", "val", "test"):
        assert callable(getattr(module, f"{split}_dataloader"))


def test_the_preprocessing_is_that_of_the_weights():
    cfg = composed("data=imagenet", "model=torchvision", "name=resnet50", "weights=IMAGENET1K_V2")
    assert instantiate(cfg.data).preprocessing.resize == 232
    cfg = composed("data=imagenet", "model=timm", "name=resnet50.a1_in1k", "weights=DEFAULT")
    assert instantiate(cfg.data).preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize("optimizer", config_groups()["optimizer"])
@pytest.mark.parametrize("scheduler", config_groups()["scheduler"])
def test_optimizers_and_schedulers_fit_together(optimizer, scheduler):
    cfg = composed(f"optimizer={optimizer}", f"scheduler={scheduler}", "epochs=3", "finetune_epochs=2")
    made = instantiate(cfg.optimizer)([torch.zeros(1, requires_grad=True)])
    schedule = instantiate(cfg.scheduler)(made)
    for _ in range(cfg.total_epochs):
        made.step()
        schedule.step()
    assert 0 <= made.param_groups[0]["lr"] <= cfg.optimizer.lr
    assert (made.param_groups[0]["lr"] < 1e-9) == (scheduler == "cosine")  # down to zero over all five epochs


@pytest.mark.parametrize(("epochs", "finetune", "fraction"), [(30, 0, 1.0), (0, 10, 0.0), (30, 10, 0.75), (0, 0, 0.0)])
def test_the_pruning_comes_between_training_and_fine_tuning(epochs, finetune, fraction):
    cfg = composed(f"epochs={epochs}", f"finetune_epochs={finetune}")
    assert cfg.schedule.fraction == fraction
    assert cfg.trainer.max_epochs == epochs + finetune


def test_the_callback_for_other_applications_has_all_arguments_with_their_defaults():
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        told = compose(overrides=["+callbacks=reflow"]).callbacks.reflow
    parameters = {name: p for name, p in inspect.signature(Reflow.__init__).parameters.items() if name != "self"}
    assert {*told} - {"_target_", "_convert_"} == {*parameters}
    for name, parameter in parameters.items():
        if name not in ("sparsity", "schedule"):
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert told[name] == default, name
