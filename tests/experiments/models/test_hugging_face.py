import pytest
import torch

from reflow_lightning import calibrate, prune
from reflow_lightning.experiments.checkpoints import load_weights, read_weights
from reflow_lightning.experiments.models.hugging_face import transformers_model

BERT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 30, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 20}
LLAMA = {k: v for k, v in BERT.items() if k != "model_type"} | {"model_type": "llama", "num_key_value_heads": 1}
CONFIGS = [BERT, BERT | {"model_type": "roberta"}, BERT | {"model_type": "electra"}, GPT2, LLAMA]


def network(config=BERT, **options):
    return transformers_model(config=config, **{"num_classes": 3, **options}).eval()


def batch():
    ids = torch.randint(3, 30, (4, 5))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


@pytest.mark.parametrize("config", CONFIGS, ids=[config["model_type"] for config in CONFIGS])
def test_it_gives_the_logits_of_a_model_of_any_kind_and_padding_changes_nothing(config):
    net, inputs = network(config, pad_token_id=0), batch()
    logits = net(**inputs)
    assert torch.equal(logits, net.model(**inputs).logits)
    alone = net(input_ids=inputs["input_ids"][1:2, :3], attention_mask=inputs["attention_mask"][1:2, :3])
    torch.testing.assert_close(alone[0], logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=[config["model_type"] for config in CONFIGS])
def test_it_says_what_tokens_it_takes_and_takes_them(config):
    net = network(config, pad_token_id=0)
    assert (net.tokens.vocabulary_size, net.tokens.pad_id) == (30, 0)
    longest = torch.full((1, net.tokens.max_length), 5)
    assert net(input_ids=longest, attention_mask=torch.ones_like(longest)).isfinite().all()


def test_roberta_has_fewer_positions_than_embeddings_of_them():
    assert network(BERT | {"model_type": "roberta"}).tokens.max_length == 18  # its padding has id 1, which come after
    assert network(BERT).tokens.max_length == 20


def test_the_size_of_the_vocabulary_is_that_of_the_data_unless_the_configuration_says_it():
    config = {key: value for key, value in BERT.items() if key != "vocab_size"}
    assert network(config, vocabulary_size=77).tokens.vocabulary_size == 77
    assert network(BERT, vocabulary_size=77).tokens.vocabulary_size == 30


def test_it_is_pruned_and_repaired_on_batches_with_labels():
    net = network()
    batches = [(batch(), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    dense = [net(**inputs) for inputs, _ in batches]
    prune(net, 0.5, criterion="magnitude")
    assert sum((p == 0).sum() for p in net.parameters()) > 100
    result = calibrate(net, [inputs for inputs, _ in batches], repair="reconstruct", reference=network())
    assert result is not None
    assert not torch.equal(net(**batches[0][0]), dense[0])


def test_a_folder_gives_its_weights_or_only_its_sizes(tmp_path):
    net, inputs = network(), batch()
    net.model.save_pretrained(tmp_path)
    same, other = (transformers_model(tmp_path, weights, num_classes=3).eval() for weights in ("DEFAULT", None))
    assert torch.equal(same(**inputs), net(**inputs))
    assert other(**inputs).shape == (4, 3)
    assert not torch.equal(other(**inputs), net(**inputs))


def test_its_tensors_are_read_from_a_checkpoint_under_the_names_that_transformers_knows(tmp_path):
    net = network()
    state = {f"net.{name}": value for name, value in net.state_dict().items()}  # as a LightningModule names them
    torch.save({"state_dict": state}, tmp_path / "pruned.ckpt")
    weights = read_weights(tmp_path / "pruned.ckpt")
    assert weights.keys() == net.model.state_dict().keys()
    other = network()
    load_weights(other, tmp_path / "pruned.ckpt")
    assert torch.equal(
        other(**batch() | {"input_ids": torch.full((4, 5), 7)}), net(**batch() | {"input_ids": torch.full((4, 5), 7)})
    )


def test_a_model_without_a_pad_token_is_named_with_the_remedy():
    with pytest.raises(ValueError, match=r"GPT2ForSequenceClassification has no pad_token_id.*as model.pad_token_id=0"):
        transformers_model(config=GPT2)
    assert transformers_model(config=GPT2, pad_token_id=0).tokens.pad_id == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name=None and config=None: give one of them"),
        ({"name": "x", "config": BERT}, "name='x' and config=.*: give one of them"),
        ({"name": "x", "weights": "best"}, "weights='best' must be DEFAULT or null"),
        ({"config": BERT, "weights": "DEFAULT"}, "weights=DEFAULT needs a name= or a folder that has weights"),
        ({"config": {"hidden_size": 8}}, "config={'hidden_size': 8} lacks model_type: such as bert"),
        ({"config": {"model_type": "birt"}}, "config={'model_type': 'birt'} is of no model that transformers knows"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transformers_model(**options)


def test_pretrained_weights_come_in_training_mode_as_random_ones_do(tmp_path):
    network().model.save_pretrained(tmp_path)
    assert all(module.training for module in transformers_model(tmp_path, "DEFAULT", num_classes=3).modules())


@pytest.mark.parametrize("weights", [None, "DEFAULT"])
def test_a_folder_that_is_not_there_or_holds_nothing_is_named_with_the_remedy(weights, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            FileNotFoundError, match=rf"name={folder} is no folder with config.json.*save_pretrained wrote"
        ):
            transformers_model(folder, weights)


def test_weights_of_another_number_of_classes_are_refused(tmp_path):
    network().model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_classes=5"):
        transformers_model(tmp_path, "DEFAULT", num_classes=5)
