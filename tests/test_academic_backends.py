"""Academic tasks in another precision and by lm-eval's vLLM model, which here has a vLLM of transformers under it."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from factories import write_model
from test_academic import write_rows, write_tasks

from radpo.benchmarks import academic
from radpo.core.errors import ConfigError
from radpo.matrix.estimate import count_work
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix


class FakeLLM:
    """vLLM's `LLM` as far as lm-eval uses it: prompt log-probabilities, and greedy answers."""

    made: dict[str, Any]

    def __init__(self, **arguments: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        FakeLLM.made = arguments
        dtype = getattr(torch, arguments["dtype"])
        self.model = AutoModelForCausalLM.from_pretrained(arguments["model"], dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(arguments["model"])
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=arguments["max_model_len"]))

    def generate(self, prompts: Any, sampling_params: Any, **_: Any) -> list[Any]:
        return [self._one(prompt["prompt_token_ids"], asked) for prompt, asked in zip(prompts, sampling_params)]  # noqa: B905

    def _one(self, ids: list[int], asked: Any) -> Any:
        import torch

        assert len(ids) + asked.max_tokens <= self.llm_engine.model_config.max_model_len
        with torch.inference_mode():
            logps = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        if getattr(asked, "prompt_logprobs", None):
            rows = [
                {int(row.argmax()): float(row.max()), token: float(row[token])}
                for row, token in zip(logps, ids[1:], strict=False)
            ]
            return SimpleNamespace(prompt_logprobs=[None, *rows], outputs=[SimpleNamespace(text="")])
        assert asked.temperature == 0
        made: list[int] = []
        while len(made) < asked.max_tokens and (not made or made[-1] != self.tokenizer.eos_token_id):
            with torch.inference_mode():
                made.append(int(self.model(torch.tensor([ids + made])).logits[0, -1].argmax()))
        return SimpleNamespace(outputs=[SimpleNamespace(text=self.tokenizer.decode(made))])


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package vllm with what lm-eval imports of it; lm-eval's own class stands on it unchanged."""
    from transformers import AutoTokenizer

    def module(name: str, **content: Any) -> None:
        found = ModuleType(name)
        found.__spec__ = ModuleSpec(name, None, is_package=True)
        vars(found).update(content)
        monkeypatch.setitem(sys.modules, name, found)

    module("vllm", LLM=FakeLLM, SamplingParams=SimpleNamespace, TokensPrompt=dict)
    module("vllm.lora")
    module("vllm.lora.request", LoRARequest=object)
    module("vllm.renderers")
    module("vllm.renderers.hf", resolve_chat_template=lambda tokenizer, **_: tokenizer.chat_template)
    module(
        "vllm.tokenizers", get_tokenizer=lambda name, tokenizer_mode, **how: AutoTokenizer.from_pretrained(name, **how)
    )
    own = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.11.0" if name == "vllm" else own(name))
    monkeypatch.setattr(academic, "installed_version", lambda name: "0.11.0")
    for name in ("lm_eval.models.vllm_causallms", "radpo.models.lm_eval_vllm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("lm_eval.models.vllm_causallms", "radpo.models.lm_eval_vllm"):
        sys.modules.pop(name, None)


def test_lm_evals_vllm_gives_the_figures_of_transformers_and_says_what_it_cut(
    tmp_path: Path, fake_vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_model(tmp_path / "model")
    tasks = write_tasks(tmp_path / "tasks")
    long = "x" * 2000
    write_rows(tasks / "sums.jsonl", [{"question": text, "answer": "4"} for text in ("2 + 2?", "1?", long)])
    runs = {
        backend: academic.run(tmp_path / "model", ["colours:1", "sums"], tasks, backend=backend)
        for backend in ("transformers", "vllm")
    }
    assert FakeLLM.made["dtype"] == "float32"
    assert not FakeLLM.made["trust_remote_code"]
    ours, theirs = (runs[backend].lm_eval_results["results"] for backend in ("vllm", "transformers"))
    assert {name: {k: v for k, v in of.items() if "," in k} for name, of in ours.items()} == {
        name: {k: v for k, v in of.items() if "," in k} for name, of in theirs.items()
    }
    for task in ("colours", "sums"):
        for one, other in zip(runs["vllm"].samples[task], runs["transformers"].samples[task], strict=True):
            if task == "sums":
                assert one["resps"] == other["resps"]
            else:
                values = [[float(answer[0]) for (answer,) in sample["resps"]] for sample in (one, other)]
                assert values[0] == pytest.approx(values[1], abs=1e-4)
    assert runs["vllm"].cuts == runs["transformers"].cuts
    assert len(runs["vllm"].cuts) == 1
    assert "academic: the model is run by vllm 0.11.0." in runs["vllm"].notes
    assert not any("run by" in note or "computes in" in note for note in runs["transformers"].notes)


def write_matrix(folder: Path, **settings: Any) -> Path:
    if not (folder / "model").exists():
        write_model(folder / "model")
        write_tasks(folder / "tasks")
    document = {
        "name": "m", "model": str(folder / "model"), "variants": {"base": None},
        "benchmarks": {"academic": {"tasks": ["sums"], "include": "tasks", **settings}},
    }  # fmt: skip
    (folder / "m.yaml").write_text(yaml.safe_dump(document))
    return folder / "m.yaml"


def test_precision_is_settled_where_keys_are_made_and_plans_count_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radpo.benchmarks.sizes import SizeHints, Sizes

    monkeypatch.setenv("RADPO_PRECISION", "bfloat16")

    def settled(machine: Any = None, **settings: Any) -> tuple[Any, str]:
        (stage,) = expand(load_matrix(write_matrix(tmp_path, **settings)), precision=machine).stages
        work = count_work(Sizes(SizeHints()), stage)
        assert work is not None
        return stage.settings.get("precision"), work.precision

    assert settled() == (None, "float32"), "by default on a CPU, whose key is as it was"
    assert settled(precision="float32") == (None, "float32")
    assert settled(precision="bfloat16") == ("bfloat16", "bfloat16")
    assert settled(precision="auto") == ("bfloat16", "bfloat16")
    assert settled(machine="bfloat16") == ("bfloat16", "bfloat16"), "planned for a GPU"
    monkeypatch.setattr(academic, "gpus", lambda: ["NVIDIA H100"])
    assert settled() == ("bfloat16", "bfloat16")


def test_results_state_another_precision_than_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_matrix(tmp_path)
    found = academic.run(tmp_path / "model", ["colours"], tmp_path / "tasks", limit=1, precision="bfloat16")
    assert "academic: the model computes in bfloat16." in academic.scores(found).notes
    assert found.lm_eval_results["config"]["model_dtype"] == "torch.bfloat16"


def test_without_vllm_a_run_is_refused_before_work_and_the_key_is_another(tmp_path: Path) -> None:
    (stage,) = expand(load_matrix(write_matrix(tmp_path, backend="vllm"))).stages
    (own,) = expand(load_matrix(write_matrix(tmp_path))).stages
    assert stage.key != own.key
    assert own.function.ready is not None
    assert own.function.ready(own) is None
    with pytest.raises(ConfigError, match=r"benchmarks\.academic\.backend vllm: needs the package vllm.*radpo\[vllm\]"):
        stage.function.ready(stage)
