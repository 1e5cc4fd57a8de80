"""Invalid settings, on the command line and in files: one line with the key, the value and what is allowed."""

import pytest
import torch
from omegaconf import OmegaConf

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError
from digitlab.training.experiment import Experiment
from digitlab.training.resuming import resume

# The overrides, and the key that the error must name.
INVALID = """
    model=lenett                                        model
    data=mnst                                           data
    optimizer=sdg                                       optimizer
    scheduler=cosin                                     scheduler
    loss=mae                                            loss
    trainer=gpuu                                        trainer
    experiment=cifar                                    experiment
    debug=quick                                         debug
    augment=[shift,flp]                                 augment
    model=null                                          model
    data=3                                              data
    ~model                                              model
    ~optimizer.lr                                       optimizer.lr
    +model=lenet                                        model
    augment=[1]                                         augment
    augment=[[flip]]                                    augment
    trainer=[0.9,0.999]                                 trainer
    ~model=0.5                                          model
    model=[mlp]                                         model
    data=${nowhere}                                     data
    +data.source.foo=3                                  data.source.foo
    ~model.hidden=3                                     model.hidden
    +optimizer=sgd                                      optimizer
    early_stopping=none                                 early_stopping
    ema=null                                            ema
    +seed=3                                             seed
    optimizer.lrr=1                                     optimizer.lrr
    +optimizer.lrr=1                                    optimizer.lrr
    optimiser=sgd                                       optimiser
    optimiser.lr=1                                      optimiser.lr
    +optimiser.lr=1                                     optimiser
    optimizer=adam,optimizer.momentum=0.9               optimizer
    optimizer.momentum=0.9                              optimizer.momentum
    model.hidden=[64                                    model.hidden
    model.hidden=64,64                                  model.hidden
    optimizer.lr==3                                     optimizer.lr
    model.hidden=[]                                     model.hidden
    model.hidden=[0]                                    model.hidden
    model.hidden=64                                     model.hidden
    model.hidden=[64,abc]                               model.hidden
    model.hidden=null                                   model.hidden
    model.hidden=[64,1000000000]                        model.hidden
    model.hidden=[1000000000000,1000000000000]          model.hidden
    model=cnn model.width=1000000000                    model.width
    model=fast_cnn model.widths=[8,1000000000,8]        model.widths
    model.dropout=1.5                                   model.dropout
    model.dropout=-0.1                                  model.dropout
    model.dropout=true                                  model.dropout
    model.dropout=${foo}                                model.dropout
    model.activation=rellu                              model.activation
    model.activation=[relu] model.hidden=[8,8]          model.activation
    model.activation=[relu,tahn] model.hidden=[8,8]     model.activation
    model.init=xavier                                   model.init
    model._target_=os.system                            model._target_
    data.batch_size=0                                   data.batch_size
    data.batch_size=1.5                                 data.batch_size
    data.batch_size=abc                                 data.batch_size
    data.batch_size=1 model.batch_norm=true             data.batch_size
    data.batch_size=1 trainer=ddp trainer.accelerator=cpu data.batch_size
    data.val_size=60000                                 data.val_size
    data.val_size=50000 data=cifar10                    data.val_size
    data.val_size=-1                                    data.val_size
    data.val_size=1.0                                   data.val_size
    data.train_size=0.0                                 data.train_size
    data.train_size=9                                   data.train_size
    data.train_size=55001                               data.train_size
    data.split_seed=-1                                  data.split_seed
    data.normalize=minmax                               data.normalize
    data.root=/dev/null                                 data.root
    optimizer.lr=-1                                     optimizer.lr
    optimizer.lr=0                                      optimizer.lr
    optimizer.lr=nan                                    optimizer.lr
    optimizer.lr=inf                                    optimizer.lr
    optimizer.lr=abc                                    optimizer.lr
    optimizer.lr=                                       optimizer.lr
    optimizer.lr=???                                    optimizer.lr
    optimizer.betas=[0.9]                               optimizer.betas
    optimizer.weight_decay=-1                           optimizer.weight_decay
    optimizer.weight_decay=1 optimizer.decay_layers=[x] optimizer.decay_layers
    optimizer=sgd optimizer.nesterov=true               optimizer.nesterov
    loss=mse loss.output=softmx                         loss.output
    loss.label_smoothing=1                              loss.label_smoothing
    scheduler.warmup_epochs=-1                          scheduler.warmup_epochs
    scheduler=steps scheduler.milestones_epochs=[3,2]   scheduler.milestones_epochs
    augment=affine augment.affine.degres=3              augment.affine.degres
    augment=affine augment.affine.scale=[2,1]           augment.affine.scale
    ema.decay=1                                         ema.decay
    ema=0.9                                             ema
    monitor.metric=val/acc                              monitor.metric
    monitor.metric=null                                 monitor.metric
    monitor.mode=maximum                                monitor.mode
    monitor.mode=min                                    monitor.mode
    monitor=val/loss                                    monitor
    early_stopping=3                                    early_stopping
    early_stopping.patience=0                           early_stopping.patience
    early_stopping.unit=epoch                           early_stopping.unit
    trainer.max_epochs=0                                trainer.max_epochs
    trainer.max_epochs=null                             trainer.max_epochs
    trainer.precision=16                                trainer.precision
    trainer.devices=2                                   trainer.devices
    trainer.accelerator=tpu                             trainer.accelerator
    trainer.limit_train_batches=0.5                     trainer.limit_train_batches
    seed=-1                                             seed
    seed=1.0                                            seed
    seed=${nowhere}                                     seed
    test=bestt                                          test
    compile=yes                                         compile
    +resume=outputs                                     resume
    callbacks=3                                         callbacks
    callbacks.mine=1                                    callbacks.mine
    +callbacks.mine=1                                   callbacks.mine
    +callbacks.mine._target_=torch.nn.ReLU              callbacks.mine._target_
"""
SUGGESTED = {
    "model=lenett": "lenet",
    "data=CIFAR10": "cifar10",
    "model=MLP": "mlp",
    "augment=[shift,flp]": "flip",
    "optimizer.lrr=1": "lr",
    "optimiser=sgd": "optimizer",
    "optimiser.lr=1": "optimizer.lr",
    "monitor.metric=val/acc": "val/accuracy",
    "test=bestt": "best",
    "tta=shift_flip": "flip_shift",
    "optimizer.decay_weight=0.1": "weight_decay",
    "optimizer.learning_rate=0.1": "lr",
    "model=resnet": "torchvision model.name=resnet18",
    "trainer=cuda": "gpu",
    "augment=[rotate]": "affine",
}


def refusal(overrides):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_config(compose(overrides), typed=overrides)
    return caught.value


@pytest.mark.parametrize("case", INVALID.strip().splitlines())
def test_an_invalid_setting_is_reported_with_its_key_in_one_line(case, one_line):
    *overrides, key = case.split()
    error = refusal(overrides)
    assert error.key == key
    assert one_line(str(error))
    assert str(error).startswith(f"{key}=")
    assert error.allowed


@pytest.mark.parametrize(("override", "name"), SUGGESTED.items())
def test_the_most_similar_name_is_suggested(override, name):
    assert f"(did you mean `{name}`?)" in str(refusal([override]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr='0.1'", "this is text: a number is written without quotes"),
        ("+data.source.foo=3", "there are none"),
        ("early_stopping=none", "must be null, which turns it off"),
        ("ema=null", "has keys of its own, set one by one: ema.decay=VALUE"),
        ("trainer.accelerator=gpu", "(did you mean `cuda`?)"),
        ("model.init=xavier", "(did you mean `glorot`?)"),
        ("trainer.max_epochs=1e1", "must be a whole number of 1 or more: write 10"),
        ("model.hidden=64", "write [64]"),
        ("seed=[0,1]", "seed=[0,1]: must be"),
        ("data.val_size=0.000001", "is less than one of the 60,000 images: 0 means no validation"),
        ("optimizer.lr=0,01", "one number is 0.01"),
        ("seed=0,1,2", "with -m each value is a run"),
        ("device=cuda", "write trainer=auto|cpu|ddp|gpu"),
        ("bananas=3", "python train.py --help lists all keys"),
    ],
)
def test_the_message_for_a_common_mistake_says_how_to_fix_it(override, words):
    assert words in str(refusal([override]))


def test_a_list_is_only_suggested_if_it_would_be_accepted():
    for override in ("model.hidden=64x64", "optimizer.betas=0.9"):
        assert "write [" not in str(refusal([override]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_the_error_about_a_missing_gpu_names_the_override_as_typed():
    assert refusal(["trainer=gpu"]).key == "trainer"
    assert refusal(["trainer.accelerator=cuda"]).key == "trainer.accelerator"


@pytest.mark.parametrize("folder", ["nowhere", ".", "file"])
def test_resume_rejects_a_folder_without_a_run(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^resume=.*: is no run folder"):
        resume(str(tmp_path / folder), [])


@pytest.mark.parametrize(
    "argument", ["seed=1", "model=lenet", "-m", "trainer.max_epochs=0", "trainer=gpuu", "trainer.max_epochs"]
)
def test_resume_allows_only_a_new_length_and_device(argument, shrunk, run_folder, one_line):
    (run_folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(shrunk(), run_folder / ".hydra" / "config.yaml")
    with pytest.raises(ConfigError) as caught:
        resume(str(run_folder), [f"resume={run_folder}", argument])
    assert caught.value.key in (argument.partition("=")[0], "resume", "")
    assert one_line(str(caught.value))


def experiment(tmp_path, text):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=mine"


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("optimizer: {lrr: 1}", "optimizer.lrr"),
        ("optimiser: {lr: 1}", "optimiser"),
        ("sede: 3", "sede"),
        ("trainer: {max_epoch: 3}", "trainer.max_epoch"),
        ("early_stopping: {patienc: 3}", "early_stopping.patienc"),
        ("monitor: {metrics: val/loss}", "monitor.metrics"),
        ("optimizer: {lr: fast}", "optimizer.lr"),
        ("defaults:\n  - override /model: lenett", "model"),
        ("defaults:\n  - override /modle: lenet", "modle"),
        ("seed: [1", ""),
    ],
)
def test_a_mistake_in_a_file_is_reported_like_one_on_the_command_line(text, key, tmp_path, one_line):
    error = refusal(experiment(tmp_path, text))
    assert error.key == key
    assert one_line(str(error))
