"""What leaves a run: a checkpoint with its model card, on the Hub's stand-in where one asks, and tables for others."""

from __future__ import annotations

import base64
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from factories import scored_pairs, write_model
from report_factory import write_run
from typer.testing import CliRunner

from radpo import api
from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError, RadpoError, ServiceError
from radpo.core.run import load_run
from radpo.core.run_files import CHECKPOINTS, read_checkpoints
from radpo.export.checkpoints import export_checkpoint, find_run, push
from radpo.export.tables import FORMATS, export_tables
from radpo.preferences.writing import write_preferences
from radpo.stats.quantities import Name, measure


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained one plain and one conditioned checkpoint."""
    place = tmp_path_factory.mktemp("export")
    write_model(place / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6), (10, 1), (5, 4)]), place / "pairs.jsonl")
    document = {
        "name": "small", "model": str(place / "model"), "variants": {"base": None, "dpo": None, "ra-dpo": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "training": {"learning_rate": 1e-3, "batch_size": 4, "per_device_train_batch_size": 2, "max_length": 600},
        "benchmarks": {"unlearning": {}}, "report_to": ["tensorboard"],
    }  # fmt: skip
    (place / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    api.run(place / "m.yaml", place / "runs" / "small", store=str(place / "store"))
    return place / "runs" / "small"


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ra-dpo"
    done = call("export", "ra-dpo", str(out), "--run", str(run))
    assert done.exit_code == 0
    assert str(out / "README.md") in done.stdout.splitlines()
    return out


def test_the_run_directory_names_each_checkpoint(run: Path) -> None:
    store, named = read_checkpoints(run)
    assert [(one["variant"], one["seed"]) for one in named] == [("dpo", 0), ("ra-dpo", 0)]
    for one in named:
        assert (Path(one["folder"]) / "config.json").is_file()
        assert Path(one["folder"]).is_relative_to(store)
    (run / CHECKPOINTS).unlink()
    api.run(run.parents[1] / "m.yaml", run, store=store)
    assert read_checkpoints(run) == (store, named), "a finished run of an earlier release names them, too"


def test_the_run_directory_keeps_tensorboards_files(run: Path) -> None:
    kept = {path.parent.relative_to(run / "tensorboard").as_posix() for path in run.glob("tensorboard/**/events.out.*")}
    assert kept == {"base/seed-0", "dpo/seed-0", "ra-dpo/seed-0"}


def test_an_exported_checkpoint_is_the_trained_one_and_asks_for_its_goal(run: Path, exported: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = Path(read_checkpoints(run)[1][1]["folder"])
    theirs = {path.name: path.read_bytes() for path in trained.iterdir()}
    ours = {path.name: path.read_bytes() for path in exported.iterdir()}
    card = ours.pop("README.md").decode()
    assert ours == theirs
    AutoModelForCausalLM.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    asked = [{"role": "user", "content": "?"}]
    assert "Overall score: 10." in tokenizer.apply_chat_template(asked, tokenize=False)
    assert "goal=1)   # from 1 to 10" in card
    plain = exported.parent / "dpo"
    export_checkpoint(run, "dpo", plain)
    assert "goal=" not in (plain / "README.md").read_text(encoding="utf-8")


def test_the_card_has_the_runs_figures_as_the_hubs_own_classes_read_them(run: Path, exported: Path) -> None:
    from huggingface_hub import ModelCard

    card, found = ModelCard.load(exported / "README.md"), load_run(run)
    rows = found.results[(found.results["variant"] == "ra-dpo") & found.results["value"].notna()]
    assert card.data.model_name == "small: ra-dpo, seed 0"
    assert len(card.data.eval_results) == len(rows) > 3
    for row, told in zip(rows.to_dict("records"), card.data.eval_results, strict=True):
        assert (told.dataset_type, told.dataset_config, told.metric_type) == (
            row["benchmark"], row["subset"], row["metric"],
        )  # fmt: skip
        assert told.metric_value == row["value"]
        quantity = measure(found, "ra-dpo", Name(row["benchmark"], row["subset"], row["metric"]))
        assert quantity is not None
        assert (told.metric_args.get("low", quantity.low), told.metric_args["n"]) == (quantity.low, row["n"])
    for part in ("## Results", "95% interval", "## Data", "pairs.jsonl", "training pairs", "## Settings", "beta: 0.01"):
        assert part in card.text
    fenced = card.text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(fenced)["learning_rate"] == 1e-3


def test_hostile_names_and_notes_stay_text_in_a_card(run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    hostile = shutil.copytree(run, tmp_path / "run")
    manifest = json.loads((hostile / "manifest.json").read_text(encoding="utf-8"))
    evil = "</td><script>alert(1)</script> ![x](http://x) | a\n---\nlicense: mit"
    manifest["notes"], manifest["name"] = [evil], evil
    manifest["data"] = {evil + "`": manifest["data"]["pairs.jsonl"]}
    manifest["variants"]["dpo"]["training"]["```\n# out"] = "```"
    (hostile / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    export_checkpoint(hostile, "dpo", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "license" not in card.data.to_dict()
    outside = re.sub("`[^`]*`", "", card.text)
    assert "<script>" not in outside
    assert "![x](" not in outside
    assert card.text.count("\n# ") == 1, "no heading but the card's own"


def test_what_cannot_be_exported_is_said(run: Path, exported: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    document = json.loads((moved / CHECKPOINTS).read_text(encoding="utf-8"))
    (moved / CHECKPOINTS).write_text(json.dumps({**document, "store": str(tmp_path / "gone")}), encoding="utf-8")
    for words, message, kind in (
        (("base", tmp_path / "x", "--run", run), "'base' is scored as it is, and not trained; trained are dpo, ra-dpo",
         ConfigError),
        (("ra-dop", tmp_path / "x", "--run", run), "none of its variants; .*did you mean 'ra-dpo'", ConfigError),
        (("dpo", tmp_path / "x", "--run", run, "--seed", "3"), "--seed 3: dpo has the seeds 0", ConfigError),
        (("dpo", exported, "--run", run), "is not empty", ConfigError),
        (("dpo", "/proc/no/x", "--run", run), "/proc/no/x: cannot be written", ConfigError),
        (("dpo", tmp_path / "x", "--run", moved), "give it with --store", DataError),
        (("dpo",), "give the folder", ConfigError),
        ((run, "--format", "cvs"), "must be one of csv, latex, xlsx, lm-eval; did you mean 'csv'", ConfigError),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call("export", *map(str, words))
    assert call("export", "dpo", str(tmp_path / "x"), "--run", str(moved), "--store", document["store"]).exit_code == 0
    assert find_run("dpo", run.parent) == run
    with pytest.raises(ConfigError, match=r"none below .* did"):
        find_run("dpo", tmp_path / "gone")


class Hub(http.server.BaseHTTPRequestHandler):
    """A stand-in for the Hub: makes repositories, validates metadata as YAML, takes commits."""

    repos: dict[str, dict[str, Any]]
    refused: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, here = self.path.split("?")[0], "http://{}:{}".format(*self.server.server_address[:2])
        if self.refused:
            return self._answer({"error": "no such token"}, 401)
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            return self._answer({"valid": isinstance(yaml.safe_load(content.split("---")[1]), dict)})
        if path == "/api/repos/create":
            asked = json.loads(body)
            private = asked.get("private", asked.get("visibility") == "private")
            self.repos[asked["name"]] = {"private": private, "files": {}}
            return self._answer({"url": f"{here}/me/{asked['name']}"})
        if path.endswith("/preupload/main"):
            return self._answer({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                                           for one in json.loads(body)["files"]]})  # fmt: skip
        if path.endswith("/commit/main"):
            name = path.split("/")[-3]
            for line in body.decode().splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.repos[name]["files"][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            return self._answer({"commitOid": "0" * 40, "commitUrl": f"{here}/me/{name}/commit/0", "success": True})
        return self._answer({"error": path}, 404)

    def do_GET(self) -> None:
        self._answer({"sha": "0" * 40, "id": "me/name", "siblings": []})

    def _answer(self, document: Any, status: int = 200) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    import huggingface_hub.constants

    handler = type("OneHub", (Hub,), {"repos": {}, "refused": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield handler
    server.shutdown()


def test_pushed_is_what_was_exported_and_only_when_one_asks(hub: type[Hub], run: Path, tmp_path: Path) -> None:
    call("export", "dpo", str(tmp_path / "quiet"), "--run", str(run))
    assert not hub.repos, "nothing is uploaded unasked"
    done = call("export", "dpo", str(tmp_path / "out"), "--run", str(run), "--push", "me/name")
    assert done.exit_code == 0, done.output
    assert hub.repos["name"]["private"] is True
    sent = hub.repos["name"]["files"]
    assert sent == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    push(tmp_path / "out", "me/open", public=True)
    assert hub.repos["open"]["private"] is False
    hub.refused = True
    with pytest.raises(ServiceError, match=r"--push me/name: .*401.*; what was exported is in"):
        push(tmp_path / "out", "me/name")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with all kinds of figures and with texts that spreadsheets would run."""
    return write_run(
        tmp_path_factory.mktemp("several") / "run", hostile=["=1+1", "+cmd|' /C calc'!A0", "@x"], seeds=(0, 1)
    )


def test_csv_and_excel_hold_the_tables_and_run_nothing(several: Path, tmp_path: Path) -> None:
    import openpyxl

    found = load_run(several)
    written = export_tables(several, "csv", tmp_path)
    assert {"results.csv", "examples.csv"} <= {path.name for path in written}
    results = pd.read_csv(tmp_path / "results.csv")
    assert results["value"].tolist() == pytest.approx(found.results["value"].tolist(), nan_ok=True)
    outputs = set(pd.read_csv(tmp_path / "examples.csv")["output"].dropna())
    assert "'=1+1" in outputs
    assert "=1+1" not in outputs
    assert call("export", str(several), str(tmp_path / "book"), "--format", "xlsx").exit_code == 0
    book = openpyxl.load_workbook(tmp_path / "book" / "run.xlsx")
    rows = list(book["results"].iter_rows(values_only=True))
    assert len(rows) == len(found.results) + 1
    place = rows[0].index("value")
    assert [row[place] for row in rows[1:]] == pytest.approx(found.results["value"].tolist(), nan_ok=True)
    evil = [cell for row in book["examples"].iter_rows() for cell in row if cell.value == "=1+1"]
    assert evil
    assert {cell.data_type for cell in evil} == {"s"}, "a text, and no formula"


def test_latex_has_every_primary_figure_with_its_interval_and_escapes_names(several: Path, tmp_path: Path) -> None:
    from radpo.stats.quantities import primary_names

    (file,) = export_tables(several, "latex", tmp_path)
    text, found = file.read_text(encoding="utf-8"), load_run(several)
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(primary_names(found)) > 3
    assert all(line.count(" & ") == len(found.variants) and line.endswith("\\\\") for line in body)
    assert "alpaca-eval" in text
    assert "_" not in text.replace("\\_", "")
    assert "[" in body[0]


def test_lm_evals_own_table_reads_what_is_exported(several: Path, tmp_path: Path) -> None:
    from lm_eval.utils import make_table

    found = load_run(several)
    written = export_tables(several, "lm-eval", tmp_path)
    assert len(written) == 6, "three variants, two seeds"
    document = json.loads((tmp_path / "dpo__seed-1" / written[0].name).read_text(encoding="utf-8"))
    rows = found.results[(found.results["variant"] == "dpo") & (found.results["seed"] == 1)]
    academic = rows[rows["benchmark"] == "academic"]
    for row in academic.to_dict("records"):
        metric, _, chosen = row["metric"].partition(",")
        assert document["results"][row["subset"]][f"{metric},{chosen or 'none'}"] == row["value"]
        assert document["results"][row["subset"]][f"{metric}_stderr,{chosen or 'none'}"] == row["stderr"]
    table = make_table(document)
    assert all(name in table for name in ("radpo_facts", "mt-bench", "alpaca-eval"))


def test_a_run_that_is_none_is_one_message_in_every_format(tmp_path: Path) -> None:
    for kind in FORMATS:
        with pytest.raises(RadpoError, match=r"manifest.json: cannot be read"):
            export_tables(tmp_path / "none", kind, tmp_path)
