import pytest
import torch
from scenarios.datasets import TREC_CLASSES, make_sst2, make_trec

from reflow_lightning.experiments.data.sst2 import SST2DataModule
from reflow_lightning.experiments.data.trec import TRECDataModule

MODULES = pytest.mark.parametrize(("module", "make"), [(SST2DataModule, make_sst2), (TRECDataModule, make_trec)])


def ready(data):
    data.prepare_data()
    data.setup()
    return data


def classes(loader):
    return torch.cat([labels for _, labels in loader])


def vocabulary(data):
    return data.encoder.tokenizer.get_vocab()


@MODULES
def test_batches_are_ids_with_their_mask_and_classes(module, make, tmp_path):
    data = ready(module(make(tmp_path), batch_size=7))
    for split in ("train", "val", "test", "calibration"):
        inputs, labels = next(iter(getattr(data, f"{split}_dataloader")()))
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape
        assert inputs["input_ids"].dtype == labels.dtype == torch.long
        assert (
            inputs["attention_mask"].sum(1).max() == inputs["input_ids"].shape[1]
        )  # padded to the longest, no further
        assert inputs["input_ids"].max() < data.tokens.vocabulary_size


def test_the_split_of_sst2_is_the_official_one(tmp_path):
    data = ready(SST2DataModule(make_sst2(tmp_path)))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 60,
        "calibration": 60,
        "val": 20,
        "test": 24,
    }
    assert classes(data.test_dataloader()).tolist() == [0, 1] * 12


def test_of_trec_the_same_share_of_each_class_is_held_out_by_the_seed(tmp_path):
    make_trec(tmp_path)
    data = ready(TRECDataModule(tmp_path, val_share=0.2))
    assert sorted(classes(data.val_dataloader()).tolist()) == sorted([*range(6)] * 2)
    assert len(data.splits["train"]) == 48
    first, again, other = (
        [ids.tolist() for ids, _ in ready(TRECDataModule(tmp_path, val_share=0.2, seed=seed)).splits["val"]]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_classes_of_trec_are_the_coarse_ones(tmp_path):
    data = TRECDataModule(tmp_path)
    for index, name in enumerate(TREC_CLASSES):
        assert data.parse_line(f"{name}:other What is it ?") == ("What is it ?", index)


@MODULES
def test_the_tokenizer_knows_the_training_split_alone(module, make, tmp_path):
    make(tmp_path)
    for path in (tmp_path / module.dataset).iterdir():
        if not path.name.startswith("train"):
            path.write_text(path.read_text().replace("film", "zeppelin"))
    data = ready(module(tmp_path, tokenizer="words"))
    assert "film" in vocabulary(data)
    assert "zeppelin" not in vocabulary(data)


def test_words_held_out_for_the_validation_are_unknown_too(tmp_path):
    make_trec(tmp_path)
    path = tmp_path / "TREC" / "train.txt"
    path.write_text("".join(f"{line} word{i}\n" for i, line in enumerate(path.read_text().splitlines())))
    data = ready(TRECDataModule(tmp_path, tokenizer="words", val_share=0.2))
    assert len([word for word in vocabulary(data) if word.startswith("word")]) == 48


@MODULES
def test_word_dropout_is_for_training_and_calibration(module, make, tmp_path):
    data = ready(module(make(tmp_path), word_dropout=0.5))
    dropping = {name for name, split in data.splits.items() if split.word_dropout}
    assert dropping == {"train", "calibration"}


def test_workers_load_the_same_batches(tmp_path):
    make_sst2(tmp_path)
    alone, helped = (list(ready(SST2DataModule(tmp_path, num_workers=workers)).test_dataloader()) for workers in (0, 1))
    for (inputs, labels), (others, same) in zip(alone, helped, strict=True):
        assert torch.equal(inputs["input_ids"], others["input_ids"])
        assert torch.equal(labels, same)


@MODULES
def test_what_is_absent_is_downloaded(module, make, serve, tmp_path):
    make(tmp_path / "server")
    served = tmp_path / "server" / module.dataset
    for name, source in module.files.items():
        (served / name).rename(served / source)
    url = serve(served)
    data = ready(module(tmp_path / "data", url=url))
    assert len(data.splits["test"]) == 24
    (served / next(iter(module.files.values()))).unlink()
    assert len(ready(module(tmp_path / "data", url=url)).splits["test"]) == 24  # now it is there


@MODULES
def test_a_download_of_something_else_leaves_nothing(module, make, serve, tmp_path):
    served = tmp_path / "server"
    served.mkdir()
    for source in module.files.values():
        (served / source).write_text("<html>not found</html>")
    with pytest.raises(RuntimeError, match=f"could not download {module.dataset} .*line 1: there is no .*: put "):
        ready(module(tmp_path / "data", url=serve(served)))
    assert not list((tmp_path / "data" / module.dataset).iterdir())


@MODULES
def test_nothing_there_and_no_download_is_an_error_that_says_which_files_to_put_where(module, make, tmp_path):
    first, *_ = module.files
    with pytest.raises(FileNotFoundError, match=rf"{first} is missing: put .*{first}.* into .*{module.dataset}"):
        ready(module(tmp_path, url=None))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2: there is no tab between a sentence and its label in ''"),
        ("\t1", r"line 2: there is no sentence in '\\t1'"),
        ("no label", "line 2: there is no tab between a sentence and its label in 'no label'"),
        ("good\t2", r"line 2: label '2' is none of 0, 1 in 'good\\t2'"),
        ("sentence\tlabel", "line 2: label 'label' is none of 0, 1"),
        ("\u200b\t1", "train.tsv, line 2: the tokenizer makes no token of"),
    ],
)
def test_a_wrong_line_of_sst2_is_named(line, message, tmp_path):
    path = make_sst2(tmp_path) / "SST-2" / "train.tsv"
    first, _, *rest = path.read_text().split("\n")
    path.write_text("\n".join([first, line, *rest]))
    with pytest.raises(ValueError, match=message):
        ready(SST2DataModule(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2: there is no label such as LOC:city before the question in ''"),
        ("LOC:city", "line 2: there is no sentence in 'LOC:city'"),
        ("Where is it ?", "line 2: there is no label such as LOC:city before the question"),
        ("LOG:city Where is it ?", "line 2: label 'LOG' is none of ABBR, DESC, ENTY, HUM, LOC, NUM"),
    ],
)
def test_a_wrong_line_of_trec_is_named(line, message, tmp_path):
    path = make_trec(tmp_path) / "TREC" / "train.txt"
    first, _, *rest = path.read_text().split("\n")
    path.write_text("\n".join([first, line, *rest]))
    with pytest.raises(ValueError, match=message):
        ready(TRECDataModule(tmp_path))


def test_impossible_options_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"word_dropout=1.0 is outside \[0, 1\)"):
        SST2DataModule(tmp_path, word_dropout=1.0)
    with pytest.raises(ValueError, match=r"val_share=1.5 is outside \(0, 1\)"):
        TRECDataModule(tmp_path, val_share=1.5)


@pytest.mark.data
def test_the_real_sentences(real_data):
    sst2, trec = ready(SST2DataModule(real_data)), ready(TRECDataModule(real_data))
    assert [len(sst2.splits[split]) for split in ("train", "val", "test")] == [6920, 872, 1821]
    assert len(trec.splits["train"]) + len(trec.splits["val"]) == 5452
    assert len(trec.splits["test"]) == 500
    assert classes(trec.test_dataloader()).unique().tolist() == [*range(6)]
