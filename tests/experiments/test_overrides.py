import pytest

from reflow_lightning.experiments.overrides import complaints, config_groups


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-m", "sparsity=0.5,0.9", "schedule=gradual,one_shot", "schedule.begin=0.1"],
        ["schedule=gradual", "schedule.every_n_steps=10"],
        ["hydra.run.dir=x", "hydra/launcher=basic", "--cfg", "job"],
        ["+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor", "~module.scheduler"],
        ["trainer.max_epochs=3", "model.blocks=1"],
        ["--config-dir", "elsewhere", "data=mine"],
        ["--config-dir=elsewhere", "data=mine"],
        ["--config-d", "elsewhere", "data=mine"],
        ["-cd=elsewhere", "data=mine"],
        ["-m", "schedule=glob(*)"],
        ["-sc", "install=bash"],
        ["sparsity=["],  # Hydra explains it better
    ],
)
def test_valid_arguments_are_passed_on(arguments):
    assert complaints(arguments) == []


@pytest.mark.parametrize("option", ["-c", "--cfg", "--resolve", "-m", "--multirun"])
def test_other_options_leave_the_check_as_it_is(option):
    assert len(complaints([option, "a=1"])) == 1


def test_every_fault_is_named():
    assert len(complaints(["a=1", "b.c=2", "sparsity=0.5"])) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["seed=x"], "seed=x is no number; the default is 0"),
        (["epochs=abc"], "epochs=abc is no number; the default is 30"),
        (["-m", "sparsity=0.5,high"], "sparsity=high is no number; the default is 0.9"),
        (["schedule=one_shot", "schedule.fraction=late"], "schedule.fraction=late is no number; the default is 0.5"),
    ],
)
def test_a_word_in_place_of_a_number_is_named(arguments, complaint):
    assert complaints(arguments) == [complaint]


@pytest.mark.parametrize(
    "argument", ["trainer.devices=auto", "optimizer.lr=1e-3", "sparsity=${oc.env:S}", "sparsity=null", "title=any"]
)
def test_other_values_are_left_to_hydra_and_to_the_objects(argument):
    assert complaints([argument]) == []


def test_keys_of_the_chosen_group_count():
    [complaint] = complaints(["schedule.begin=0.1"])
    assert "'schedule.begin' is no key" in complaint
    assert complaints(["schedule=gradual", "schedule.begin=0.1"]) == []


def test_an_addition_that_looks_like_a_mistyped_key_is_named():
    [complaint] = complaints(["+sparcity=0.5"])
    assert complaint.startswith("'sparcity' is no key; nearest: sparsity")
    for fine in ("++sparcity=0.5", "+entirely_new=1", "+sparsity=0.5", "+callbacks.stop._target_=mine.Stop"):
        assert complaints([fine]) == []


def test_the_groups_are_those_of_the_folder():
    assert set(config_groups()) == {
        *("callbacks", "data", "debug", "experiment", "launcher", "logger", "model", "module", "optimizer", "paths"),
        *("recipe", "schedule", "scheduler", "sweep", "trainer"),
    }


def test_a_number_of_batches_may_be_left_to_the_data():
    assert complaints(["reflow.calibration_batches=auto"]) == []
    assert complaints(["reflow.calibration_batches=many"]) != []


@pytest.mark.parametrize(
    ("argument", "name", "near"),
    [
        ("criterion=magnitud", "magnitud", "magnitude"),
        ("reflow.allocation=globl", "globl", "global"),
        ("repair=[batchnorm,moment]", "moment", "moments"),
        ("criterion='wand'", "wand", "wanda"),
        ("criterion=magnitude,'wand'", "wand", "wanda"),
        ("repair=choice([moment],auto)", "moment", "moments"),
    ],
)
def test_a_name_that_nobody_registered_is_named(argument, name, near):
    [complaint] = complaints([argument])
    assert complaint.startswith(f"{argument.partition('=')[0]}={name} is unknown; nearest: {near}")
    assert complaint.endswith("one of your own is known if extensions=[mine.py] names its file")


@pytest.mark.parametrize(
    "arguments",
    [
        ["criterion=of_mine", "extensions=[mine.py]"],  # it may register the name
        ["criterion=of_mine", "++extensions=[mine.py]"],
        ["criterion=of_mine", "reflow._target_=mine.Reflow"],  # so may any module that is imported
        ["criterion={_target_: reflow_lightning.pruning.PerOutput, criterion: of_mine}"],
        ["criterion=${oc.env:CRITERION}"],
        ["repair=null"],
        ["repair=[batchnorm,moments]", "allocation=erk", "-m", "criterion=random,wanda"],
    ],
)
def test_names_that_may_be_registered_later_are_left_to_the_run(arguments):
    assert complaints(arguments) == []


@pytest.mark.parametrize("option", [["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"]])
def test_a_folder_of_ones_own_is_looked_into(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nepochs: 3\nwidth: 4\nmodel: {_target_: mine.Net, depth: 2}\n"
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(text)
    assert complaints([*option, "experiment=own", "width=5", "model.depth=3", "sparsity=0.5"]) == []
    [told] = complaints([*option, "experiment=owm"])
    assert told.startswith("experiment=owm is no choice; nearest: own")
    [told] = complaints([*option, "experiment=own", "sparsty=0.5"])
    assert told.startswith("'sparsty' is no key; nearest: sparsity")
    [told] = complaints([*option, "experiment=own", "model.dept=3"])
    assert told.startswith("'model.dept' is no key; nearest: model.depth")
