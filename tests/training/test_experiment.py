"""Checks across the parts of a configuration, which no single constructor can make."""

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError
from digitlab.training.experiment import Experiment
from digitlab.training.setup import read_data


def test_no_image_is_read(tmp_path):
    experiment = Experiment.from_config(compose(["data=cifar10", f"data.root={tmp_path}/nowhere"]))
    assert not hasattr(experiment.data, "train_set")
    assert not list(tmp_path.iterdir())


def test_checking_does_not_disturb_the_random_numbers_of_the_caller():
    state = torch.get_rng_state()
    Experiment.from_config(compose(["model=cnn"]))
    assert torch.equal(torch.get_rng_state(), state)


def test_callbacks_of_the_user_are_built():
    node = "+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    callbacks = Experiment.from_config(compose([node])).callbacks
    assert [type(callback) for callback in callbacks] == [LearningRateMonitor]


def test_all_chosen_augmentations_are_applied():
    experiment = Experiment.from_config(compose(["augment=[shift,flip,mixup]"]))
    assert len(experiment.data.augment) == 3


@pytest.mark.parametrize("typed", [[], ["monitor.metric=val/loss"]])
def test_only_a_typed_validation_monitor_needs_validation(typed):
    config = compose(["data.val_size=0", "monitor.metric=val/loss"])
    if typed:
        with pytest.raises(ConfigError, match=r"^monitor\.metric=val/loss: needs a validation set"):
            Experiment.from_config(config, typed=typed)
    else:
        assert Experiment.from_config(config, typed=typed).monitor.metric == "train/loss"


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("early_stopping.patience=3", "early_stopping.patience"),
        ("early_stopping={patience:3,unit:epochs,min_delta:0}", "early_stopping"),
        ("early_stopping=null", None),
    ],
)
def test_early_stopping_that_was_typed_needs_validation(typed, key):
    overrides = ["data.val_size=0", typed]
    config = compose(overrides)
    assert Experiment.from_config(config, typed=overrides[:1]).early_stopping is None
    if key is None:
        assert Experiment.from_config(config, typed=overrides).early_stopping is None
    else:
        with pytest.raises(ConfigError, match=r"needs a validation set, and data\.val_size is 0$") as caught:
            Experiment.from_config(config, typed=overrides)
        assert caught.value.key == key


def test_a_network_that_is_too_large_is_refused_with_its_size():
    needs = r"^model\.hidden=\[1000000000\]: weights and gradients would take 6,360\.0 GB, and this machine has"
    with pytest.raises(ConfigError, match=needs):
        Experiment.from_config(compose(["model.hidden=[1000000000]"]))


def test_a_configuration_without_a_part_is_refused():
    config = compose(["~ema"])
    with pytest.raises(ConfigError, match=r"^ema=null: must be given$"):
        Experiment.from_config(config)


@pytest.mark.parametrize(("batch_size", "messages"), [(100, 0), (101, 1)])
def test_a_mini_batch_larger_than_the_training_split_is_reported(batch_size, messages, caplog):
    sizes = ["data.train_size=100", "data.val_size=100", f"data.batch_size={batch_size}"]
    # The second run is one of a sweep: it has the same sizes, and the line would be the same.
    for _ in range(2):
        read_data(Experiment.from_config(compose(sizes), typed=[]))
    assert len(caplog.messages) == messages
    assert all(line.startswith("data.batch_size=101 is more than the 100 training images") for line in caplog.messages)
