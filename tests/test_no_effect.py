"""Settings that would have no effect are rejected, and the same settings are accepted where they have one."""

import pytest

from digitlab.api.no_effect import notes_without_effect, refuse_without_effect
from digitlab.config.compose import compose


@pytest.mark.parametrize(
    ("arguments", "notes"),
    [
        ("seed=1 seed=2", ["seed=1: has no effect, because seed=2 follows"]),
        ("model=mlp model=lenet", ["model=mlp: has no effect, because model=lenet follows"]),
        (
            "scheduler=steps trainer.max_epochs=3",
            ["scheduler=steps: has no effect, because scheduler.milestones_epochs=[10,15] are not before the end: "
             "trainer.max_epochs is 3"],
        ),
        (
            "early_stopping.patience=3 trainer.max_epochs=3",
            ["early_stopping.patience=3: has no effect, because no run of this length waits so long: "
             "trainer.max_epochs is 3"],
        ),
        ("scheduler=steps trainer.max_epochs=11 early_stopping.patience=10 optimizer.lr=0.1 seed=1", []),
        ("early_stopping.patience=400 early_stopping.unit=steps early_stopping=null", []),
    ],
)  # fmt: skip
def test_a_setting_without_effect_in_a_run_of_this_length_gives_a_note(arguments, notes):
    overrides = arguments.split()
    assert notes_without_effect(overrides, compose(overrides)) == notes


def test_a_setting_that_another_value_of_a_swept_key_switches_on_is_accepted():
    overrides = ["data.val_size=0", "trainer.val_every_steps=3"]
    refuse_without_effect(overrides, compose(overrides), swept=["data.val_size"])


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("sweep=five_factors", "sweep=five_factors: is a sweep: add -m"),
        ("experiment=r5_fashion_lr", "experiment=r5_fashion_lr: is a sweep: add -m"),
        ("hydra/launcher=basic", "hydra/launcher=basic: has no effect on a single run: add -m"),
        ("hydra.launcher.max_members=2", "hydra.launcher.max_members=2: has no effect on a single run: add -m"),
        ("hydra.sweep.dir=OUT/sweep", "has no effect on a single run: add -m"),
        ("data.val_size=0 trainer.val_every_steps=3", "trainer.val_every_steps=3: has no effect: data.val_size is 0"),
        ("data.fold=1", "data.fold=1: has no effect: data.folds is null"),
        ("test=none trainer.limit_test_batches=2", "has no effect: test is none"),
        ("optimizer.decay_layers=[output]", "has no effect: optimizer.weight_decay is 0"),
        ("data.folds=5 data.val_size=1000", "has no effect: data.folds decides how many images validate"),
        ("-m data.fold=0,1", "data.fold=0: has no effect: data.folds is null"),
        ("-m seed=0,1 test=none trainer.limit_test_batches=2", "has no effect: test is none"),
        ("hydra.run.dir=", "must be a folder: the current one is written hydra.run.dir=."),
        ("-m seed=0,1 hydra.sweep.dir=", "must be a folder: the current one is written hydra.sweep.dir=."),
        ("-m seed=0,1 hydra.run.dir=OUT/run", "has no effect on a sweep: write hydra.sweep.dir="),
        ("resume=OUT/nowhere", "there is no such folder"),
        ("experiment=mnist_99 model=mlp", "experiment=mnist_99 sets it, so model=mlp does not go with this experiment"),
        ("-m model=lenet,fast_cnn model.hidden=[8]", "model.hidden=[8]: no such key in model=lenet"),
        ("-m optimizer=sgd,adam optimizer.momentum=0.9", "optimizer.momentum=0.9: no such key in optimizer=adam"),
    ],
)
def test_it_is_rejected_in_one_line_and_no_folder_is_made(arguments, words, train_py, one_line, tmp_path):
    ended = train_py(*arguments.replace("OUT", str(tmp_path)).split())
    assert words in ended.stderr
    assert one_line(ended.stderr), ended.stderr
    assert ended.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "arguments",
    [
        "-m optimizer=sgd,rmsprop optimizer.momentum=0.9",
        "-m model=lenet,fast_cnn augment=affine,shift seed=0",
        "seed=0,1 -m",
    ],
)
def test_a_sweep_whose_options_all_have_the_key_is_planned(arguments, train_py, tmp_path):
    ended = train_py(*arguments.split(), "sweep.dry_run=true", f"hydra.sweep.dir={tmp_path}/sweep")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.extra
def test_a_sweep_without_a_list_of_values_says_that_nothing_is_swept(train_py, tmp_path):
    command = ["-m", "model=linear", "sweep.dry_run=true", f"hydra.sweep.dir={tmp_path}/sweep"]
    ended = train_py(*command)
    line = "nothing is swept: no key has several values, so this is a sweep of one run\n"
    assert (ended.returncode, ended.stderr) == (0, line)
    assert train_py(*command, "seed=0,1").stderr == ""
    assert train_py(*command, "seed=0,1", "seed=2,3").stderr == "seed=0,1: has no effect, because seed=2,3 follows\n"
