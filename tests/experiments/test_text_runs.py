"""Language models are trained, pruned, repaired and tested as all others; what does not fit is told before."""

import pytest
import torch
from hydra import compose, initialize_config_module
from scenarios.datasets import make_sst2, make_trec
from torch.utils.data import DataLoader

from reflow_lightning.experiments.checkpoints import read_weights
from reflow_lightning.experiments.classifier import Classifier
from reflow_lightning.experiments.data.sst2 import SST2DataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.hugging_face import transformers_model

SIZES = "hidden_size:16,num_hidden_layers:1,num_attention_heads:2,intermediate_size:32,hidden_dropout_prob:0.0"
SMALL = {
    "text_transformer": ("model.width=16", "model.depth=1", "model.heads=2", "model.dropout=0.0"),
    "transformers": (f"model.config={{model_type:bert,{SIZES}}}",),
}


class NeverTrained(Classifier):
    """Fails as soon as it is trained."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("it was trained")


class WithEmptySentence(SST2DataModule):
    """Sentences of which one was emptied by somebody's preprocessing."""

    def val_dataloader(self):
        return DataLoader(self.splits["val"], 4, collate_fn=self._emptied)

    def _emptied(self, samples):
        inputs, classes = self.collate(samples)
        inputs["attention_mask"][0] = 0
        return inputs, classes


class WithThirdClass(SST2DataModule):
    """Sentences of which some are neutral."""

    def val_dataloader(self):
        return DataLoader([(ids, torch.tensor(2)) for ids, _ in self.splits["val"]], 4, collate_fn=self.collate)


def configuration(model, folder, *overrides, data="sst2", sizes=None):
    small = ("vocabulary_size=60", "epochs=4", "reflow.calibration_batches=2", "logger=none", "data.batch_size=8")
    learning = ("optimizer=adamw", "optimizer.lr=0.01", "title=test", "sparsity=0.5")
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        chosen = (f"data={data}", f"model={model}", f"data_dir={folder}", *(sizes or SMALL[model]))
        return compose("config", overrides=[*chosen, *small, *learning, *overrides])


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("repair", ["moments", "reconstruct", "best"])
def test_a_language_model_is_trained_pruned_repaired_and_tested(model, repair, tmp_path):
    limit = ("budget=3",) if repair == "best" else ()
    report = run(configuration(model, make_sst2(tmp_path), f"repair={repair}", *limit), tmp_path)
    assert report["dense"] > 0.9
    assert report["stages"]["repaired"]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert {"dense", "pruned", "repaired"} <= report["stages"].keys()
    assert (tmp_path / "signal.csv").exists()


def test_questions_have_six_classes(tmp_path):
    report = run(configuration("text_transformer", make_trec(tmp_path), data="trec"), tmp_path)
    assert report["dense"] > 0.5  # a word at the end tells which


def test_a_trained_model_is_pruned_without_training(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    make_sst2(tmp_path)
    again.mkdir()
    dense = run(configuration("text_transformer", tmp_path, "sparsity=0.0", "repair=none"), first)["dense"]
    ckpt = (f"ckpt={first / 'pruned.ckpt'}", "train=false")
    assert run(configuration("text_transformer", tmp_path, *ckpt), again)["dense"] == dense


def test_what_was_trained_here_goes_back_to_transformers(tmp_path):
    run(configuration("transformers", make_sst2(tmp_path)), tmp_path)
    cfg = configuration("transformers", tmp_path)
    net = transformers_model(config=cfg.model.config, vocabulary_size=60)
    net.model.load_state_dict(read_weights(tmp_path / "pruned.ckpt"))
    assert (net.model.bert.encoder.layer[0].output.dense.weight == 0).any()


@pytest.mark.parametrize("model", SMALL)
def test_a_network_that_is_not_collapsed_ends_no_run(model, tmp_path):
    report = run(configuration(model, make_sst2(tmp_path), "collapse=true"), tmp_path)
    assert report["collapse"]
    assert "repaired" in report


FAULTS = {
    "vocabulary": (("model.vocabulary_size=20",), r"the tokenizer has \d+ tokens, but the network embeds 20: use the"),
    "length": (("model.max_length=8",), "up to max_length=64 tokens, but the network has positions for 8"),
    "empty sentence": ((f"data._target_={__name__}.WithEmptySentence",), "row 0 of attention_mask is padding alone"),
    "class": ((f"data._target_={__name__}.WithThirdClass",), "there is a label 2, but num_classes=2 has 0 to 1: give"),
    "folder": (
        ("data_dir=nowhere", "data.url=null"),
        "train.tsv is missing: put train.tsv, dev.tsv, test.tsv into now",
    ),
    "tokenizer": (("tokenizer=/no/where",), "tokenizer=/no/where is no folder with a tokenizer"),
}


@pytest.mark.parametrize(("overrides", "message"), [pytest.param(*case, id=name) for name, case in FAULTS.items()])
def test_a_fault_is_told_before_anything_is_trained(overrides, message, tmp_path):
    never = f"module._target_={__name__}.NeverTrained"
    with pytest.raises(Exception, match=message):
        run(configuration("text_transformer", make_sst2(tmp_path), never, *overrides), tmp_path)


FAULTS_OF_TRANSFORMERS = {
    "vocabulary": (f"{{model_type:bert,vocab_size:20,{SIZES}}}", r"has \d+ tokens, but the network embeds 20"),
    "padding": (f"{{model_type:roberta,{SIZES}}}", "the data pad with id 0, but the network takes id 1 for padding"),
    "no pad token": (
        "{model_type:gpt2,n_embd:8,n_layer:1,n_head:2}",
        "GPT2ForSequenceClassification has no pad_token_id",
    ),
    "length": (f"{{model_type:bert,max_position_embeddings:9,{SIZES}}}", "the network has positions for 9: use max"),
}


@pytest.mark.parametrize(
    ("config", "message"), [pytest.param(*case, id=name) for name, case in FAULTS_OF_TRANSFORMERS.items()]
)
def test_so_it_is_with_models_of_transformers(config, message, tmp_path):
    never = f"module._target_={__name__}.NeverTrained"
    with pytest.raises(Exception, match=message):
        run(configuration("transformers", make_sst2(tmp_path), never, sizes=[f"model.config={config}"]), tmp_path)
