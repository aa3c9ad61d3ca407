import pytest
from hydra import compose, initialize_config_module

from reflow_lightning.experiments.experiment import run


@pytest.mark.parametrize(
    ("data", "model", "key"),
    [
        ("sst2", "resnet20", "in_channels"),
        ("trec", "vit", "image_size"),
        ("digits", "text_transformer", "vocabulary_size"),
        ("digits", "transformers", "vocabulary_size"),
    ],
)
def test_a_network_for_other_data_is_named_before_anything_is_read(data, model, key, tmp_path):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["title=test", f"data={data}", f"model={model}", f"data_dir={tmp_path}"])
    with pytest.raises(
        ValueError, match=rf"needs {key}, which these data do not give: choose .*or give it as \+{key}=..."
    ):
        run(cfg, tmp_path)
    assert not list(tmp_path.iterdir())
