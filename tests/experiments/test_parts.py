import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from scenarios.commands import application

from reflow_lightning.experiments.parts import check_parts


@pytest.mark.parametrize(
    ("data", "model", "key"),
    [
        ("sst2", "resnet20", "in_channels"),
        ("trec", "vit", "image_size"),
        ("digits", "text_transformer", "vocabulary_size"),
        ("digits", "transformers", "vocabulary_size"),
    ],
)
def test_a_network_for_other_data_is_named(data, model, key):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["title=test", f"data={data}", f"model={model}"])
    with pytest.raises(
        ValueError, match=rf"needs {key}, which these data do not give: choose .*or give it as \+{key}=..."
    ):
        check_parts(cfg)


def test_what_must_be_given_is_named_in_a_run_and_in_a_sweep(tmp_path):
    alone = application(tmp_path, "data=own", "model=timm", f"data_dir={tmp_path / 'data'}")
    assert alone.status == 1
    remedy = "no value is given for data._target_, name: pass data._target_=... name=..."
    assert alone.stderr.strip().endswith(f"reflow-lightning: ValueError: {remedy}")
    assert not (tmp_path / "data").exists()  # nothing was read
    sweep = application(tmp_path, "-m", "data=own")
    assert sweep.status == 1
    assert "this job failed, the sweep goes on: ValueError: no value is given for data._target_" in sweep.text
    assert "Traceback" not in sweep.text


def test_what_must_be_given_may_be_within_a_list():
    cfg = OmegaConf.create({"data": {"transforms": [{"_target_": "???"}]}, "model": {}})
    with pytest.raises(ValueError, match=r"no value is given for data.transforms.0._target_"):
        check_parts(cfg)
