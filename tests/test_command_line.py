"""Arguments of ``train.py`` before Hydra reads them: typing errors, quoting, and the order of options."""

import re
import shlex
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from digitlab.api.early_checks import check_values
from digitlab.api.sweep_checks import check_shared_settings
from digitlab.config.command_line import read_arguments, undeferred
from digitlab.config.compose import ROOT, compose
from digitlab.config.quoting import in_quotes, quote_path, shell_form
from digitlab.core.errors import ConfigError


def message(*arguments):
    """What the user reads after typing ``arguments``."""
    with pytest.raises(ConfigError) as caught:
        compose([argument for argument in read_arguments(arguments) if not argument.startswith("-")])
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("lr=0.01", "optimizer.lr=0.01"),
        ("epochs=5", "trainer.max_epochs=5"),
        ("batch_size=64", "data.batch_size=64"),
        ("dropout=0.2", "model.dropout=0.2"),
        ("momentum=0.9", "optimizer.momentum=0.9"),
        ("optimizer.lr = 0.01", "optimizer.lr=0.01, with no spaces around ="),
        ("optimizer.lr= 0.01", "optimizer.lr=0.01, with no spaces around ="),
        ("optimizer.lr =0.01", "optimizer.lr=0.01, with no spaces around ="),
        ("--epochs 5", "trainer.max_epochs=5"),
        ("--lr=0.1", "optimizer.lr=0.1"),
        ("--batch-size 64", "data.batch_size=64"),
        ("--seed 1", "seed=1"),
        ("--model lenet", "model=lenet"),
        ("-e 5", "settings are written KEY=VALUE"),
        ("lr 0.1", "must be written optimizer.lr=0.1"),
        ("model lenet", "must be written model=lenet"),
        ("optimizer lr=0.1", "must be written optimizer.lr=0.1"),
        ("lenet", "(did you mean `model=lenet`?)"),
        ("optimizer.lr:0.1", "(did you mean `optimizer.lr=0.1`?)"),
        ("augment=[shift, flip]", "must be written augment=[shift,flip], without spaces"),
        ("model.hidden=[64 64]", "must be written model.hidden=[64,64], without spaces"),
        ("model.hidden=(64,64)", "a list is written [64,64], a number without brackets"),
        ("model.hidden=[64;64]", "a list is written [64,64], a number without brackets"),
        ("model.hidden=[64,]", "a comma stands between two values; write model.hidden=[64]"),
        ("optimizer.lr=0.1,", "a comma stands between two values; write optimizer.lr=0.1"),
        ("optimizer.lr==0.1", "= is written once; write optimizer.lr=0.1"),
        ("optimizer.lr=0.1,seed=1", "separated by spaces outside quotes: optimizer.lr=0.1 seed=1"),
        ("optimizer.lr=“0.1”", "has typographic quotes: write optimizer.lr=0.1"),
        ("–m seed=0,1", "write -m"),
        ("—model=mlp", "write --model=mlp"),
        ("seed=range(5)", "seed=range(5): is several values: add -m, and each of them is a run"),
        ("cuda=true", "write trainer=auto|cpu|ddp|gpu"),
        ("momentum=0.9", "write optimizer=muon|rmsprop|sgd optimizer.momentum=0.9"),
        ("augment.shift.pixels=3", "no such key without augment=shift, which has fill, padding"),
        ("early_stopping.monitor=val/loss", "; write monitor.metric=val/loss"),
        ("scheduler.lr=0.1", "; write optimizer.lr=0.1"),
        ("training.epochs=3", "(did you mean `trainer.max_epochs`?)"),
        ("model.optimizer=sgd", "; write optimizer=sgd"),
        ("data.num_workers=4", "no such key: digitlab keeps all images in memory and has no worker processes"),
        ("data=/tmp/pictures", "is a path: write data=folder data.path=/tmp/pictures"),
        ("model=conf/model/lenet.yaml", "(did you mean `lenet`?)"),
        ("sweep=rates", "sweep.name=rates would name the folder of a sweep"),
        ("hydra.run.dirr=x", "(did you mean `dir`?); there are dir"),
        ("early_stopping=null early_stopping.patience=3", "early_stopping is null, which turns it off"),
        ("debug=overfit early_stopping.patience=3", "early_stopping is null, which turns it off"),
        ("--cfg", "the option needs one of job, hydra, all, as --cfg job"),
        ("-c jobb", "(did you mean `job`?)"),
        ("--multirun=true seed=0,1", "the option takes no value: write --multirun"),
        ("--config mine.yaml", "settings are written KEY=VALUE"),
    ],
)
def test_a_key_known_from_other_programs_is_answered_with_the_right_one(arguments, meant, one_line):
    text = message(*arguments.split())
    assert text.endswith(meant)
    assert one_line(text)


@pytest.mark.parametrize("arguments", [["seed=0,1"], ["model.hidden=64,64"]])
def test_no_decimal_comma_is_seen_where_a_list_was_meant(arguments):
    assert "one number is" not in message(*arguments)


@pytest.mark.parametrize(
    ("old", "new"), [("test_views=flip", "tta"), ("figures.iterations=true", "figures.log_batches")]
)
def test_a_renamed_key_is_answered_with_its_new_name(old, new):
    assert message(old) == f"{old}: is now {new}"


def test_a_key_of_another_option_is_answered_with_that_option():
    assert message("optimizer.momentum=0.9").endswith("optimizer=muon or optimizer=rmsprop or optimizer=sgd")
    assert "model=fast_cnn" in message("model=lenet", "model.widths=[8,8,8]")


def test_only_the_most_similar_names_of_a_large_group_are_listed():
    text = message("experiment=lenet")
    assert "r4_lenet" in text
    assert len(text) < 200


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("trainer.max_epochs=1 -m seed=0,1", "-m trainer.max_epochs=1 seed=0,1"),
        ("seed=1 --cfg job model=lenet", "--cfg job seed=1 model=lenet"),
        ("seed=1 --info -m", "--info -m seed=1"),
        ("seed=1 -cjob", "-cjob seed=1"),
        ("seed=1 --multi", "--multirun seed=1"),
        ("-sc query=bash model=", "-sc query=bash model="),
    ],
)
def test_options_may_follow_overrides(typed, passed):
    if typed == "seed=1 --info -m":
        with pytest.raises(ConfigError, match="can't be given together"):
            read_arguments(typed.split())
    else:
        assert read_arguments(typed.split()) == passed.split()


@pytest.mark.parametrize("start", ["/data/", "~/", "./"])
def test_a_path_with_any_character_is_read_as_it_is(start):
    for name in (
        "größe",
        "[a] #1",
        "{a}",
        "a(b)",
        "a=b",
        "a#b",
        "a&b",
        "it's",
        "a b",
        "a]",
        'a"b',
        "a\\'b",
        "end\\",
        "~",
    ):
        [override] = read_arguments([f"data.root={start}{name}"])
        assert OverridesParser.create().parse_override(override).value() == start + name
    assert compose([f"data.root={start}größe"]).data.root == f"{start}größe"


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize("folder", ["[1] a,b", "{a}", "1e3", "true", "läufe #2", "a=b"])
def test_the_folders_of_runs_and_sweeps_may_have_any_name(key, folder):
    [override] = read_arguments([f"{key}={folder}"])
    assert OverridesParser.create().parse_override(override).value() == folder


@pytest.mark.parametrize("value", ["a (b)", "it's", "a\\b", "a\\'b", "end\\", "${x}", ""])
def test_hydra_reads_every_character_in_quotes_as_it_is(value):
    assert OverridesParser.create().parse_override(f"key={in_quotes(value)}").value() == value


@pytest.mark.parametrize("name", ["größe", "2026", "1e3", "a=b", "rates"])
def test_the_name_of_a_sweep_may_be_any_name_of_a_folder(name):
    [override] = read_arguments([f"sweep.name={name}"])
    assert compose([override]).sweep.name == name
    assert compose(read_arguments(["sweep.name=null"])).sweep.name is None


def test_a_path_is_quoted_after_a_prefix_too():
    assert quote_path("++data.path=größe") == "++data.path='größe'"


@pytest.mark.parametrize(
    "override", ["data.root=/data/x", "data.root='/ö'", "seed=0,1", "model.hidden=[64", "resume=/ö"]
)
def test_other_overrides_stay_as_they_are(override):
    assert quote_path(override) == override


@pytest.mark.parametrize(
    ("value", "character"), [("größe", "ö"), ("a(b", "("), ("a&b", "&"), ("x=y", "="), ("it's", "'")]
)
def test_a_character_that_needs_quotes_is_named_with_a_form_that_works_in_a_shell(value, character):
    text = message(f"monitor.metric={value}")
    assert text.startswith(f"monitor.metric={value}: {character} must be in quotes; in a shell, write ")
    [word] = shlex.split(shell_form("monitor.metric", value))
    assert OverridesParser.create().parse_override(word).value() == value


@pytest.mark.parametrize("value", ["[64", "choice(1,2", "[64,'a]"])
def test_brackets_that_are_not_closed_are_reported_as_such(value):
    assert "brackets and quotes must be closed" in message(f"model.hidden={value}")


def test_a_key_that_only_swept_options_have_is_left_to_the_jobs():
    typed = ["-m", "optimizer=sgd,rmsprop", "optimizer.momentum=0.9", "optimizer.lr=0.1"]
    passed = read_arguments(typed)
    assert passed == ["-m", "optimizer=sgd,rmsprop", "optimizer.momentum=choice(0.9)", "optimizer.lr=0.1"]
    assert [undeferred(each) for each in passed] == typed
    assert undeferred("seed=choice(0,1)") == "seed=choice(0,1)"


def test_a_list_is_suggested_for_a_single_number():
    from digitlab.training.experiment import Experiment

    with pytest.raises(ConfigError, match=r"^model\.hidden=64: must be a list .*: write \[64\]$"):
        Experiment.from_config(compose(["model.hidden=64"]))


def test_digitlab_train_is_the_script(digitlab):
    code, out, err = digitlab("train", "model=lnet")
    assert (code, out) == (2, "")
    assert err.startswith("model=lnet: must be one of cnn, fast_cnn, lenet, ")
    assert err.count("\n") == 1


def test_an_interpreter_without_hydra_is_told_what_to_run():
    # -S leaves out the packages of the environment.
    ended = subprocess.run(
        [sys.executable, "-S", str(ROOT / "train.py")], capture_output=True, text=True, timeout=600, env={}
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith("run `make train`, or start .venv/bin/python train.py\n")


@pytest.mark.parametrize(
    ("words", "passed"), [(["model=lenet"], False), (["ARGS=model=lenet", "PYTHON=python3"], True)]
)
def test_make_rejects_variables_that_it_does_not_pass_on(words, passed):
    ended = subprocess.run(["make", "help", *words], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (ended.returncode == 0) == passed
    assert passed or 'write make help ARGS="model=lenet"' in ended.stderr


@pytest.mark.parametrize(
    ("key", "option"), [("hydra.sweeper.n_trials", "hydra/sweeper=optuna"), ("optimizer.momentum", "optimizer=sgd")]
)
def test_a_key_of_another_option_names_that_option(key, option):
    text = message(f"{key}=6").partition("it exists with ")[2]
    assert option in text.split(" or ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train model=mlp", "train: is not needed: leave it out"),
        ("/", "/: must be written KEY=VALUE"),
        ("conf/model/mine.yaml", "conf/model/mine.yaml: names a file: an option is chosen by its name, as model=mine"),
        ("resume", "resume: must be written resume=RUN_FOLDER, or resume=auto"),
        ("debug", "debug: must be written debug=NAME, where NAME is one of fast, limit, overfit, profile"),
        ("--config-name=x", "--config-name: digitlab has one configuration"),
        ("-cn x", "--config-name: digitlab has one configuration"),
        ("--config-path x", "--config-path: digitlab's own configuration is always used"),
        ("--config-dir /nowhere", "--config-dir=/nowhere: there is no such folder"),
        ("--config-dir=", "--config-dir=: there is no such folder"),
        ("--experimental-rerun x", "--experimental-rerun: is not supported"),
        ("--shell-completion", "--shell-completion: must say what to do"),
        ("--package model", "--package: has no effect without --cfg"),
        ("model=mlp --resolve", "--resolve: has no effect without --cfg"),
        ("--info=config --resolve", "--resolve: has no effect without --cfg"),
        ("model@x=lenet", "model@x=lenet: no such key (did you mean `model`?)"),
        ("--dry-run", "--dry-run: no such option: write sweep.dry_run=true"),
        ("--resume", "--resume: no such option: write resume=VALUE"),
        ("-m seed=1 2 3", "seed=1 2: several values of a sweep are written -m seed=1,2, without spaces"),
        ("-m seed=1, 2, 3", "seed=1, 2,: several values of a sweep are written -m seed=1,2, without spaces"),
        ("seed=1 e", "e: must be written KEY=VALUE"),
        ("optimizer.lr=logspace(-4,-1)", "there is no function logspace; values are written choice(1,2), range(1,5)"),
        ("optimizer.lr=interval(a,b)", "can't be read: wrong arguments of interval; values are written"),
        ("hydra/sweeper=random", "hydra/sweeper=random: must be one of basic, optuna (did you mean `optuna hydra."),
        ("hydra/launcher=slurm", "hydra/launcher=slurm: must be one of basic, joblib, "),
        ("hydra/launcher=slurm", "(did you mean `submitit_slurm`?)"),
        ("hydra.sweeper=optuna", "is chosen with a slash: write hydra/sweeper=optuna"),
        ("launcher=joblib", "launcher=joblib: no such key: write hydra/launcher=joblib"),
        ("n_trials=5", "n_trials=5: no such key: write hydra.sweeper.n_trials=5"),
        ("trainer.logger=wandb", "no such key: every run writes TensorBoard events and metrics.csv into its folder"),
        ("trainer.fast_dev_run=true", "no such key: debug=fast tries a run with three mini-batches"),
        ("scheduler=cosine scheduler.T_max=9", "no such key: every schedule ends with the last epoch"),
        ("loss=BCE", "(did you mean `cross_entropy`?)"),
        ("trainer=gpu,cpu", "trainer=gpu,cpu: is several values: add -m, and each of them is a run"),
        ("augment=flip,shift", "is several values: with -m each value is a run; one list is [flip,shift]"),
        ("model=all", "(a run for each of them: -m 'model=glob(*)')"),
        ("callbacks.x._target_=lightning.X", "no such callback: a new one is written with a +"),
        ("callbacks=[a]", "callbacks=[a]: has keys of its own, set one by one: +callbacks.NAME._target_=VALUE"),
        ("ema=[1]", "ema=[1]: has keys of its own, set one by one: ema.decay=VALUE"),
    ],
)
def test_settings_and_options_of_hydra_and_other_programs_are_answered_in_one_line(arguments, words, one_line):
    line = message(*arguments.split())
    assert words in line
    assert one_line(line)


def test_a_space_inside_quotes_before_the_equals_sign_is_named():
    assert message("model =lenet") == "model =lenet: must be written model=lenet, with no spaces around ="
    assert message("+new = 5") == "+new = 5: must be written +new=5, with no spaces around ="
    assert message("+ new=5") == "+ new=5: must be written +new=5, with no spaces around ="


def test_groups_that_no_sweep_tries_as_a_whole_get_no_such_hint():
    assert message("trainer=all") == "trainer=all: must be one of auto, cpu, ddp, gpu"


def test_the_folder_of_a_run_and_an_empty_word_are_explained(tmp_path):
    (tmp_path / ".hydra").mkdir()
    assert message(str(tmp_path)) == f"{tmp_path}: is the folder of a run: write resume={tmp_path} to continue it"
    assert message("") == "'': an argument is empty: leave it out"


@pytest.mark.parametrize(("value", "written"), [("1-5", "range(1,6)"), ("1..5", "range(1,6)"), ("[1,2,3]", "1,2,3")])
def test_several_values_of_a_sweep_in_another_form_are_written_in_the_error(value, written):
    overrides = [f"seed={value}"]
    with pytest.raises(ConfigError, match=re.escape(f"; several values are written seed={written}")):
        check_shared_settings(compose(overrides), lambda: compose(overrides), overrides, swept=())


def test_an_error_that_only_some_jobs_have_is_left_to_them():
    check_shared_settings(compose(["seed=-1"]), compose, ["model=mlp"], swept=())
    check_shared_settings(compose(["seed=-1"]), lambda: compose(["seed=-1"]), ["seed=-1,-1"], swept=["seed"])


@pytest.mark.parametrize(
    ("group", "name", "content", "words"),
    [
        ("model", "binary.yaml", b"\xff\xfe", "binary.yaml: is not text in UTF-8"),
        ("model", "list.yaml", b"- a", "list.yaml: must contain keys with values"),
        ("model", "text.yaml", b"text", "text.yaml: must contain keys with values"),
        ("model", "word.yaml", b"defaults: base", "word.yaml: defaults must be a list"),
        ("model", "number.yaml", b"defaults:\n  - 3", "number.yaml: defaults must be a list"),
        ("model", "other.yml", b"", "model=other: the name of its file must end in .yaml: "),
        ("experiment", "late.yaml", b"# mine\n# @package _global_\nseed: 5", "late.yaml: must begin with the line"),
        ("experiment", "bom.yaml", b"\xef\xbb\xbf# @package _global_\nseed: 5", "begins with a byte order mark"),
        ("experiment", "mine.yaml", b"model: lenet", "mine.yaml: must begin with the line `# @package _global_`"),
    ],
)
def test_a_wrong_file_of_the_users_project_is_named(group, name, content, words, tmp_path, monkeypatch, one_line):
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / name).write_bytes(content)
    monkeypatch.setattr("digitlab.config.cli_errors.own_conf", lambda root: tmp_path / "conf")
    line = message(f"{group}={name.partition('.')[0]}")
    assert words in line
    assert one_line(line)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.dropout=50%", "must be a number in [0, 1): write 0.5"),
        ("seed=007", "must be a whole number of 0 or more: write 7"),
        ("trainer.precision=16-mixed", "(did you mean `bf16`?)"),
        ("seed=50%", "seed=50%: must be a whole number of 0 or more"),
        ("model.dropout=150%", "model.dropout=150%: must be a number in [0, 1)"),
        ("monitor.metric=test/accuracy", "must be another metric, such as val/accuracy: a network that is chosen by"),
        ("monitor.metric=test/speed", "must be one of val/loss, "),
    ],
)
def test_a_value_in_another_form_is_answered_with_the_right_one(override, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_values(compose([override]))


def test_an_override_without_a_slash_in_a_file_is_named(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override model: lenet\n")
    line = message(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert line == "override model: is written with a slash in the defaults of your file: `- override /model: NAME`"
