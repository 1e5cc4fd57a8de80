"""The writer alone: events as TensorBoard reads them, metrics.csv, result.json. No run is trained."""

import csv
import json
import math
import threading

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from digitlab.config.compose import compose
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.graph import network_graph
from digitlab.results.writer import RunWriter
from fixtures.written import curve, events, experiment_summary, hyper_parameters, rows

CONFIGURATION = ("model=linear", "data.train_size=1600", "optimizer.lr=0.01", "seed=5")
RESULT = {
    "status": "finished",
    "metrics": {"val/accuracy": 0.9, "test/f1": 0.8, "test/loss": math.nan, "test/class_accuracy/7": 0.5},
    "best_epoch": None,
    "train_seconds": 1.5,
    "parameters": 12,
    "images_per_second": 1000.0,
    "overrides": ["model=linear", "optimizer.lr=0.01", "ema.decay=0.5", "trainer.max_epochs=3"],
}


def row(epoch, **metrics):
    measured = {
        "train/loss": 1 / epoch,
        "val/loss": 2 / epoch,
        "lr": 0.1,
        "images_per_second": 1e4,
        "train_seconds": 1.0,
    }
    return {"epoch": epoch, "step": 10 * epoch} | measured | metrics


@pytest.fixture
def folder(run_folder):
    return RunFolder(run_folder)


@pytest.fixture(scope="module")
def config():
    return OmegaConf.to_container(compose(CONFIGURATION), resolve=True)


@pytest.fixture
def writer(folder, config):
    writer = RunWriter(folder, config=config)
    yield writer
    writer.close()


def epoch(writer, number, **metrics):
    writer.validation({"val/loss": 2 / number}, step=10 * number)
    writer.epoch(row(number, **metrics))


def test_a_writer_that_fails_to_start_leaves_no_thread_and_no_open_file(folder, config):
    folder.path.mkdir()
    (folder.path / "val").touch()  # where a folder has to be
    before = threading.active_count()
    with pytest.raises(FileExistsError):
        RunWriter(folder, config=config)
    assert threading.active_count() == before


def test_training_and_validation_share_their_charts(writer, folder):
    epoch(writer, 1)
    epoch(writer, 2)
    assert curve(folder.path, "loss") == [(10, 1.0), (20, 0.5)]
    assert curve(folder.path / "val", "loss") == [(10, 2.0), (20, 1.0)]
    assert curve(folder.path, "lr") == [(10, 0.1), (20, 0.1)]
    assert curve(folder.path, "images_per_second") == [(10, 1e4), (20, 1e4)]
    assert curve(folder.path, "epoch") == [(10, 1), (20, 2)]


def test_tensorboard_shows_the_configuration(writer, folder, config):
    writer.close()
    text = events(folder.path).Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.removeprefix("```json").removesuffix("```")) == config


def test_metrics_csv_gains_one_row_per_epoch_and_may_gain_columns(writer, folder):
    epoch(writer, 1)
    assert [found["epoch"] for found in rows(folder)] == ["1"]
    epoch(writer, 2, **{"val/f1": 0.75})
    assert [found["val/f1"] for found in rows(folder)] == ["", "0.75"]
    assert [float(found["train/loss"]) for found in rows(folder)] == [1.0, 0.5]


def test_numbers_are_written_with_full_precision(writer, folder):
    value = 0.1 + 0.2
    epoch(writer, 1, **{"val/f1": value})
    assert float(rows(folder)[0]["val/f1"]) == value


def test_a_resumed_run_replaces_the_rows_and_events_after_its_checkpoint(writer, folder, config):
    epoch(writer, 1)
    writer.checkpoint({"state_dict": {}, "rows": [row(1)], "global_step": 10}, best=False)
    for number in (2, 3):
        epoch(writer, number)
    writer.close()
    resumed = RunWriter(folder, config=config, checkpoint=read_checkpoint(folder.last))
    epoch(resumed, 2, **{"train/loss": 0.25})
    resumed.close()
    assert curve(folder.path, "loss") == [(10, 1.0), (20, 0.25)]
    assert curve(folder.path / "val", "loss") == [(10, 2.0), (20, 1.0)]
    assert [found["train/loss"] for found in rows(folder)] == ["1.0", "0.25"]
    assert len(events(folder.path).Tensors("config/text_summary")) == 1


def test_lost_events_are_reported(writer, folder, config, caplog):
    writer.losses([(5, 1.0)])
    writer.checkpoint({"global_step": 5, "rows": [], "state_dict": {}}, best=False)
    writer.close()
    checkpoint = read_checkpoint(folder.last)
    (events,) = folder.path.glob("val/events*")
    with events.open("r+b") as file:
        file.truncate(events.stat().st_size - 7)
    RunWriter(folder, config=config, checkpoint=checkpoint).close()
    assert caplog.messages == [f"{folder.path}: the last 7 bytes of events are lost: the curves have a gap there"]


def test_the_hyper_parameters_have_the_metrics_of_the_result_and_no_placeholders(writer, folder):
    writer.result(RESULT, step=20)
    writer.close()
    values, metrics = hyper_parameters(folder.path)
    assert values.items() >= {"seed": 5, "model": "Linear", "lr": 0.01, "train_size": 1600, "augment": "none"}.items()
    assert "None" not in values.values()
    # There is no column for nan, null or single classes.
    names = ("val/accuracy", "test/f1", "train_seconds", "parameters", "images_per_second")
    assert metrics == {f"result/{name}" for name in names}
    assert curve(folder.path, "result/val/accuracy") == [(20, 0.9)]
    assert curve(folder.path, "result/parameters") == [(20, 12)]


def test_the_table_opens_with_the_settings_of_the_command_and_the_monitored_metric(writer, folder):
    writer.config["monitor"] = {"metric": "test/f1", "mode": "max"}
    writer.result(RESULT)
    writer.close()
    experiment = experiment_summary(folder.path)
    # TensorBoard shows the first five settings, those that differ before others, and the first five metrics.
    assert {info.name for info in experiment.hparam_infos if info.differs} == {"model", "lr", "max_epochs"}
    assert experiment.metric_infos[0].name.tag == "result/test/f1"


def test_a_setting_of_the_command_is_in_the_table_even_if_others_have_no_place_there(writer, folder):
    writer.config["ema"] = {"decay": 0.5}
    writer.result(RESULT)
    writer.close()
    assert hyper_parameters(folder.path)[0]["ema.decay"] == 0.5
    assert "ema.decay" in {info.name for info in experiment_summary(folder.path).hparam_infos if info.differs}


def test_the_graph_is_written_once(writer, folder, config):
    graph = network_graph(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
    writer.graph(graph)
    writer.checkpoint({"state_dict": {}, "rows": [], "global_step": 0}, best=False)
    writer.close()
    resumed = RunWriter(folder, config=config, checkpoint=read_checkpoint(folder.last))
    resumed.graph(graph)
    resumed.close()
    found = [event.graph_def for path in folder.path.glob("events*") for event in EventFileLoader(str(path)).Load()]
    assert [GraphDef.FromString(each) for each in found if each] == [graph]


def test_hyper_parameters_have_the_same_order_in_every_process(writer, folder):
    writer.result(RESULT)
    writer.close()
    content = events(folder.path).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    plugin_data = HParamsPluginData.FromString(content)
    assert len(plugin_data.session_start_info.hparams) > 5
    assert plugin_data.SerializeToString(deterministic=True) == content


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_an_unfinished_run_has_a_result_but_no_hyper_parameters(writer, folder, status):
    writer.result(RESULT | {"status": status})
    writer.close()
    assert folder.read_result()["status"] == status
    assert "_hparams_/session_start_info" not in events(folder.path).summary_metadata


def test_a_value_that_is_not_a_number_is_null_in_json(writer, folder):
    writer.result(RESULT)
    assert folder.read_result()["metrics"] == RESULT["metrics"] | {"test/loss": None}
    assert "NaN" not in folder.result.read_text()


def test_the_confusion_matrix_has_one_row_per_true_class(writer, folder):
    writer.confusion(torch.tensor([[5, 1], [0, 7]]), ["cat", "a,b"])
    lines = list(csv.reader(folder.confusion.read_text().splitlines()))
    assert lines == [["true \\ predicted", "cat", "a,b"], ["cat", "5", "1"], ["a,b", "0", "7"]]
