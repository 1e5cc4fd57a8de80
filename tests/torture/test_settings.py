"""Any command line trains two steps or is refused in one line: no traceback, no endless run, no leftover folder.

The names and keys come from ``conf/``; the values are usual ones, unusual ones, and values of other types.
"""

import json
import shutil
from collections import Counter
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from digitlab.config.cli_errors import group_names
from digitlab.config.compose import CONF, compose, walk

SMALL = (
    "trainer=cpu", "trainer.progress_bar=false", "trainer.max_steps=2", "data.train_size=40", "data.val_size=20",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
)  # fmt: skip
# For keys that set the length of a run: values that keep it short.
LENGTHS = ("trainer.max_steps", "trainer.max_epochs", "data.train_size", "trainer.limit_val_batches",
           "trainer.limit_test_batches")  # fmt: skip
SHORT = ("0", "-1", "1", "2", "abc", "nan", "inf", "[]", "{}", "true")
ODD = """
    0 -1 1 2 3 7 0.1 0.5 0.9 1.0 -0.0 1e-5 1e-30 1e-300 1e30 1e300 1e400 nan inf -inf 100000 2147483648
    9223372036854775808 null true false abc '' '0.1' [] [1] [0.1,0.2] [0.9,0.999] [2,1] [1,abc] [null] [[1]] {} {a:1}
    {_target_:os.system} {_target_:torch.nn.ReLU} ??? ${nowhere} ${seed} ${.} ${oc.env:NOPE} é ~ [64 ' a,b 64,64 none
    auto best last simple 32 64 bf16 = 0x10 1_000 mlp [mlp] [mlp,cnn] cuda cpu ddp
"""


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


GROUPS = {group: names(group) for group in group_names(CONF) if group not in ("sweep", "trainer")}


@cache
def keys(choices):
    """The keys of the configuration with these choices."""
    container = OmegaConf.to_container(compose(choices), resolve=False)
    return [key for key, _ in walk(container) if not key.startswith(("hydra", "sweep"))]


@st.composite
def command_lines(draw):
    common = st.sampled_from([None, *(g for g in GROUPS if g not in ("experiment", "debug"))])
    chosen = draw(
        st.lists(st.one_of(common, common, st.sampled_from(["experiment", "debug"])), max_size=4, unique=True)
    )
    choices = [f"{group}={draw(st.sampled_from(GROUPS[group]))}" for group in chosen if group is not None]
    several = draw(st.lists(st.sampled_from(GROUPS["augment"]), max_size=3, unique=True))
    if several and "augment" not in chosen:
        choices.append(f"augment=[{','.join(several)}]")
    overrides = []
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(keys(tuple(choices))))
        value = draw(st.sampled_from(SHORT if key in LENGTHS else ODD.split()))
        key += draw(st.sampled_from([""] * 18 + ["x", ".foo"]))
        overrides.append(draw(st.sampled_from([""] * 12 + ["+", "++", "~"])) + f"{key}={value}")
    return (*choices, *overrides)


@pytest.mark.long
@pytest.mark.extra
def test_any_command_line_trains_or_is_refused_in_one_line(
    in_child, train_py_here, all_read, one_line, tmp_path, torture, tell
):
    folder, seen = tmp_path / "run", Counter()

    @settings(
        max_examples=1000 if torture else 12, deadline=None, database=None, derandomize=not torture,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip
    @given(command_lines())
    def trains_or_is_refused(overrides):
        shutil.rmtree(folder, ignore_errors=True)
        ended = in_child(lambda: train_py_here(*SMALL, *overrides, f"hydra.run.dir={folder}"))
        # Hypothesis likes mini-batches above the training split, and types keys twice. Both give a remark.
        lines = [line for line in ended.stderr.splitlines() if ": has no effect, because " not in line]
        if ended.code == 0:
            assert all(line.startswith("data.batch_size=") for line in lines)
            assert json.loads((folder / "result.json").read_text())["status"] == "finished"
        else:
            assert ended.code in (1, 2), ended
            assert one_line("\n".join(lines)), ended
            assert ": " in ended.stderr, "the message names the setting and what is wrong with it"
            assert ended.code == 1 or not folder.exists(), ended
        seen["trained" if ended.code == 0 else "refused"] += 1

    trains_or_is_refused()
    tell(f"{seen['trained']} trained, {seen['refused']} refused")
