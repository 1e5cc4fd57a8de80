"""The commands that ``compare_revisions.py`` runs with both revisions: small ones that together use every part.

To add a case, append to ``CASES``. To rename a configuration key in the project, add it to ``RENAMED_KEYS``.
"""

from dataclasses import dataclass

# Old key -> new key. Cases use the old keys. A revision whose conf/ does not know an old key gets the new one; keys
# under it are renamed with it.
RENAMED_KEYS: dict[str, str] = {
    "test_views": "tta",
    "figures.iterations": "figures.log_batches",
    "optimizer.unit_filters": "optimizer.normalize_filters",
}

# Overrides of all cases, unless a case gives the same key another value.
_SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "trainer.limit_test_batches=4",
    "data.train_size=600",
    "data.val_size=200",
    "data.batch_size=32",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command line of train.py, and perhaps a second one that resumes its run.

    ``resume`` are the overrides that the second command gets beside ``resume=FOLDER``, None for no second command.
    ``stop_at`` sends SIGTERM to the first command at the start of that mini-batch, counted from 1. ``fails`` says that
    the command must end with 1, because a run of its sweep diverges.
    """

    name: str
    arguments: tuple[str, ...]
    resume: tuple[str, ...] | None = None
    stop_at: int | None = None
    fails: bool = False

    @property
    def sweep(self) -> bool:
        return "-m" in self.arguments

    @property
    def overrides(self) -> list[str]:
        """The overrides without ``-m``; each key occurs once, with its last value."""
        overrides = (argument for argument in (*_SMALL, *self.arguments) if argument != "-m")
        return list({override.partition("=")[0]: override for override in overrides}.values())

    @property
    def exit_code(self) -> int:
        """The exit code with which the first command must end."""
        if self.stop_at is not None:
            return 143
        return 1 if self.fails else 0


def _case(name: str, arguments: str, *, resume: str | None = None, stop_at: int | None = None) -> Case:
    resume_overrides = None if resume is None else tuple(resume.split())
    return Case(name=name, arguments=tuple(arguments.split()), resume=resume_overrides, stop_at=stop_at)


_SGD = "optimizer=sgd optimizer.momentum=0.9"
# ``stop_midway`` counts chunks, so a chunk is one mini-batch here.
_STOP = "+callbacks.stop._target_=stop_midway.StopMidway trainer.chunk_length=1"
_SINGLE = (
    _case("linear", "model=linear"),
    _case("mlp", "model=mlp"),
    _case("sgd", f"model=mlp model.init=he {_SGD} optimizer.nesterov=true optimizer.weight_decay=1e-4"),
    _case("dropout_adam", "model=mlp_dropout optimizer=adam optimizer.weight_decay=1e-4"),
    _case("batch_norm", "model=mlp model.batch_norm=true model.hidden=[64,32] model.activation=tanh"),
    _case("lenet", "model=lenet"),
    _case("cnn_augment", "data=cifar10 model=cnn model.width=8 augment=[shift,flip,cutout] test_views=flip"),
    _case("fast_cnn_muon", "data=cifar10 model=fast_cnn model.widths=[16,32,32] optimizer=muon scheduler=linear"),
    _case("mlp_augment", "model=mlp augment=[affine,elastic,blur,noise,pen]"),
    _case("mixup", "model=mlp augment=mixup loss.label_smoothing=0.1"),
    _case("mse", "model=mlp model.activation=sigmoid loss=mse loss.output=sigmoid optimizer=sgd"),
    _case("ema_clipping", "model=mlp ema.decay=0.9 trainer.gradient_clip_norm=0.5"),
    _case("cosine_warmup", f"model=mlp {_SGD} scheduler=cosine scheduler.warmup_epochs=0.5"),
    _case("one_cycle", "data=fashion_mnist model=mlp optimizer=adamw optimizer.weight_decay=0.1 scheduler=one_cycle"),
    _case(
        "early_stopping",
        "model=mlp trainer.max_epochs=8 early_stopping.patience=1 monitor.metric=val/loss "
        "optimizer=sgd optimizer.lr=1 trainer.val_every_steps=7",
    ),
    _case("precision_64", "model=mlp trainer.precision=64"),
    _case("precision_bf16", "model=lenet trainer.precision=bf16"),
    _case("compiled", f"model=mlp compile=true {_SGD}"),
    _case("unknown_class", "data=mnist_none model=mlp data.source.other_count=2000 data.source.noise_count=2000"),
    _case("fold", "model=mlp data.folds=5 data.fold=1 data.deskew=true data.normalize=unit"),
    _case("test_last", "model=mlp test=last data.val_size=0 figures.iterations=true"),
)
_RESUMED = (
    _case("resumed", "model=mlp_dropout trainer.max_epochs=1", resume="trainer.max_epochs=2"),
    _case("resumed_compiled", f"model=mlp compile=true {_SGD} trainer.max_epochs=1", resume="trainer.max_epochs=2"),
    _case("stopped", f"model=lenet ema.decay=0.9 augment=shift {_STOP}", resume="", stop_at=26),
)
_SWEEPS = (
    _case(
        "sweep_mlp",
        f"-m model=mlp model.dropout=0.2 {_SGD} seed=0,1 optimizer.lr=0.1,0.01 scheduler=cosine ema.decay=0.9",
    ),
    _case("sweep_lenet", "-m model=lenet seed=0,1 optimizer.lr=0.001,0.003 trainer.gradient_clip_norm=1"),
    _case("sweep_batch_norm", "-m model=mlp model.batch_norm=true augment=shift seed=0,1 loss.label_smoothing=0,0.1"),
    _case("sweep_nesterov", f"-m model=mlp {_SGD} optimizer.nesterov=true seed=0,1"),
    _case("sweep_rules", "-m model=mlp optimizer=adamw,rmsprop,adagrad,muon seed=0,1"),
    _case("sweep_compiled", f"-m model=mlp compile=true {_SGD} seed=0,1 optimizer.lr=0.1,0.01"),
    _case(
        "sweep_halving",
        f"-m model=mlp {_SGD} optimizer.lr=0.1,0.01,0.001,0.0001 sweep.halving=true trainer.max_epochs=4",
    ),
    _case("sweep_basic", "-m hydra/launcher=basic model=mlp optimizer=rmsprop,adagrad,muon"),
    Case(
        name="sweep_diverging",
        arguments=("-m", "model=mlp", "optimizer=sgd", "seed=0,1", "optimizer.lr=0.1,1e30"),
        fails=True,
    ),
)
CASES = (*_SINGLE, *_RESUMED, *_SWEEPS)
