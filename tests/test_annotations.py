"""Values are checked before torch is imported, with the same messages as by the constructors themselves."""

import pytest

from digitlab.api.early_checks import check_values
from digitlab.config.annotations import check_node
from digitlab.config.compose import CONF, compose
from digitlab.core.errors import ConfigError
from digitlab.training.experiment import Experiment

# Each reads the annotations in another way: inherited, imported, in a dataclass, nested, in an Annotated list.
WRONG = [
    ["optimizer.lr=-1"],
    ["optimizer=sgd", "optimizer.momentum=2"],
    ["data.val_size=abc"],
    ["model.hidden=64"],
    ["model.hidden=[64,0]"],
    ["model.activation=relo"],
    ["model=torchvision", "model.name=resnet19"],
    ["trainer.max_epochs=0"],
    ["trainer.precision=16"],
    ["trainer.accelerator=cudaa"],
    ["loss=mse", "loss.output=foo"],
    ["scheduler=steps", "scheduler.milestones_epochs=3"],
    ["augment=[flip]", "augment.flip.probability=2"],
    ["early_stopping.patience=0"],
    ["ema.decay=2"],
    ["monitor.metric=val/acc"],
    ["monitor.mode=min"],
    ["seed=-1"],
    ["test=bets"],
    ["tta=flop"],
]


@pytest.mark.parametrize("overrides", WRONG, ids=" ".join)
def test_wrong_values_are_found_early_with_the_message_of_the_constructor(overrides):
    config = compose(overrides)
    with pytest.raises(ConfigError) as early:
        check_values(config)
    with pytest.raises(ConfigError) as late:
        Experiment.from_config(config, typed=[])
    assert str(early.value) == str(late.value)


@pytest.mark.sample(3)
@pytest.mark.parametrize("group", ["data", "model", "loss", "optimizer", "scheduler", "augment", "trainer", "debug"])
def test_no_option_of_a_group_is_refused(group):
    for path in sorted((CONF / group).glob("*.yaml")):
        name = f"[{path.stem}]" if group == "augment" else path.stem
        check_values(compose([f"{group}={name}"]))


def test_classes_outside_digitlab_are_left_to_the_constructor():
    check_node({"_target_": "torch.nn.Dropout", "p": "text"}, "model")
    check_node({"_target_": "digitlab.models.NoSuchModel", "hidden": "text"}, "model")
    check_node({"_target_": "no dots", "hidden": "text"}, "model")
