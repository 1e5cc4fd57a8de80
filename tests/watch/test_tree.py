"""Run folders that are found again and again, against a search of the whole tree."""

import os
import random
import shutil

from digitlab.results.folder import find_runs
from digitlab.watch.tree import RunTree


def make_run(path):
    (path / ".hydra").mkdir(parents=True)
    (path / "checkpoints").mkdir()


def act(order, root, number):
    """Change something in the tree: a new run, an empty folder, one removed or renamed, a file in a run."""
    folders = [path.parent for path in root.rglob(".hydra")]
    kind = order.choice(["run", "sweep", "empty", "remove", "rename", "file", "later"])
    if kind == "run":
        make_run(root / f"mnist-mlp{order.randrange(2)}" / str(number))
    elif kind == "sweep":
        make_run(root / "sweeps" / "rates" / str(number))
        (root / "sweeps" / "rates" / "sweep.json").write_text("{}")
    elif kind == "empty":
        (root / "mnist-mlp0" / f"empty{number}").mkdir(parents=True)
    elif kind == "later" and (empty := [path for path in root.rglob("empty*") if not (path / ".hydra").exists()]):
        (order.choice(empty) / ".hydra").mkdir()
    elif folders and kind == "remove":
        shutil.rmtree(order.choice(folders))
    elif folders and kind == "rename":
        order.choice(folders).rename(root / f"renamed{number}")
    elif folders and kind == "file":
        (order.choice(folders) / "result.json").write_text("{}")


def test_after_any_changes_the_runs_are_those_of_a_whole_search(tmp_path):
    order, tree = random.Random(0), RunTree(tmp_path)
    for number in range(60):
        act(order, tmp_path, number)
        tree.update()
        assert tree.runs == {str(run.path) for run in find_runs(tmp_path)}
        assert tree.sweeps == sorted(str(path.parent) for path in tmp_path.rglob("sweep.json"))
    assert len(tree.runs) > 4


def test_a_tree_that_has_settled_is_not_listed_again(tmp_path, monkeypatch):
    for number in range(20):
        make_run(tmp_path / "mnist-mlp" / str(number))
    old = 1_000_000_000
    for path in (tmp_path, tmp_path / "mnist-mlp"):
        os.utime(path, (old, old))
    tree, listed = RunTree(tmp_path), []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    tree.update()
    assert len(listed) == 22
    listed.clear()
    tree.update()
    assert (len(tree.runs), listed) == (20, [])
    make_run(tmp_path / "mnist-mlp" / "new")
    tree.update()
    assert (len(tree.runs), len(listed)) == (21, 2)


def test_links_and_hidden_folders_are_left_out_and_a_root_that_is_a_run_counts(tmp_path):
    make_run(tmp_path / "outside" / "run")
    root = tmp_path / "outputs"
    make_run(root / "a")
    make_run(root / ".trash" / "b")
    (root / "link").symlink_to(tmp_path / "outside")
    tree = RunTree(root)
    tree.update()
    assert tree.runs == {str(root / "a")}
    single = RunTree(root / "a")
    single.update()
    assert single.runs == {str(root / "a")}


def test_a_root_that_does_not_exist_has_no_runs_until_it_does(tmp_path):
    tree = RunTree(tmp_path / "outputs")
    tree.update()
    assert tree.runs == set()
    make_run(tmp_path / "outputs" / "a")
    tree.update()
    assert len(tree.runs) == 1
