"""Settings that would have no effect are rejected, and the same settings are accepted where they have one."""

import pytest


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


def test_a_sweep_without_a_list_of_values_says_that_nothing_is_swept(train_py, tmp_path):
    command = ["-m", "model=linear", "sweep.dry_run=true", f"hydra.sweep.dir={tmp_path}/sweep"]
    ended = train_py(*command)
    line = "nothing is swept: no key has several values, so this is a sweep of one run\n"
    assert (ended.returncode, ended.stderr) == (0, line)
    assert train_py(*command, "seed=0,1").stderr == ""
