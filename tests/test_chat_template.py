"""Chat templates as real models have them: named ones, dated ones, those that refuse or lose a system message."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from factories import TEMPLATE, scored_pairs, write_model

from radpo.core.errors import ConfigError, ModelError
from radpo.models.chat_template import (
    TurnEnd,
    control_tokens,
    date_notes,
    placement_of,
    prints_date,
    render_tokens,
    template_of,
    turn_end,
    with_date,
)
from radpo.models.likelihood import tokenize_pair
from radpo.models.loading import load_tokenizer, saved_template
from radpo.preferences.goals import (
    condition,
    detect_placement,
    goal_aware_template,
    goal_wording,
    stated_scale,
    wording_between,
)
from radpo.preferences.relabel import relabel
from radpo.training.reference import reference_log_likelihoods
from radpo.training.run import policy_template

# The parts of published templates that matter here.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    "{%- for message in loop_messages %}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}"
    "{%- endif %}{%- if message['role'] == 'user' %}{%- if loop.last and system_message is defined %}"
    "{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}{%- else %}"
    "{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
"""Of Mistral-7B-Instruct-v0.3: a system message is rendered only where the conversation ends with the user."""
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<' + message['role'] + '>' + message['content'] | trim + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<assistant>'}}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>' + system + '<</SYS>>' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ eos_token + '[INST] ' + content + ' [/INST]' }}{% else %}{{ ' ' + content + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now(\"%d %b %Y\") %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}{{- 'Today Date: ' + date_string + '\n' }}" + TEMPLATE
)
"""As Llama 3.2's."""
SMALL = (0.0, 4.0)


def several(folder: Path, **templates: str) -> Path:
    """A model whose tokenizer_config.json has a list of named templates, as Hermes-3's and Command-R's do."""
    write_model(folder, template=None)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    path.write_text(json.dumps(config))
    return folder


def text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


def test_of_several_named_templates_the_default_is_used_everywhere(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one")
    many = several(tmp_path / "many", default=TEMPLATE, tool_use="TOOLS{{ messages[0]['content'] }}")
    assert template_of(load_tokenizer(many)) == TEMPLATE
    assert saved_template(many) == (TEMPLATE, ("tool_use",))
    pairs = relabel(scored_pairs([(9.0, 3.0), (8.0, 2.0)]), "ra").table
    how: dict[str, Any] = {"max_length": 300, "precision": "float32"}
    assert reference_log_likelihoods(many, pairs, **how).equals(reference_log_likelihoods(one, pairs, **how))
    assert policy_template(many, pairs, scale=(1, 10)) == policy_template(one, pairs, scale=(1, 10))


def test_templates_in_a_folder_of_their_own_are_read_alike(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("RAG")
    assert template_of(load_tokenizer(folder)) == TEMPLATE
    assert saved_template(folder) == (TEMPLATE, ("rag",))


def test_several_templates_without_a_default_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the chat templates rag, tool_use and none that is called default"):
        load_tokenizer(several(tmp_path / "m", rag="a", tool_use="b"))


@pytest.mark.parametrize(
    ("template", "placement"), [(MISTRAL, "user"), (GEMMA, "user"), (LLAMA2, "system"), (DATED, "system")]
)
def test_the_goal_survives_in_the_prompt_and_in_what_is_learned(tmp_path: Path, template: str, placement: str) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "m", template))
    assert placement_of(tokenizer) == placement
    asked = condition([{"role": "user", "content": "Hello"}], 7, placement_of(tokenizer))
    pair = tokenize_pair(tokenizer, asked, "Yes", "No")
    assert "Overall score: 7." in text(tokenizer, list(pair.prompt_ids))
    learned = text(tokenizer, list(pair.chosen_ids)).split("</s>")[0].strip()
    assert learned == "Yes", "the answer alone is learned from"


def test_a_template_that_renders_no_user_message_is_refused() -> None:
    with pytest.raises(ModelError, match="does not render a user's message"):
        detect_placement("{{ raise_exception('no') }}")
    with pytest.raises(ModelError, match="there is no place for a goal"):
        detect_placement("{{ messages[-1]['content'] }}")


@pytest.mark.parametrize("template", [GEMMA, MISTRAL])
def test_a_system_message_that_would_be_refused_or_lost_is_an_error_with_its_fix(tmp_path: Path, template: str) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "m", template))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    with pytest.raises(ModelError, match=r"pair 'p7': has a system message.*radpo data clean --join-system"):
        tokenize_pair(tokenizer, messages, "Yes", "No", name="pair 'p7'")


def test_roles_that_a_template_refuses_are_named_with_the_pair_and_the_fix(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "m", GEMMA))
    messages = [{"role": "user", "content": "One"}, {"role": "user", "content": "Two"}]
    with pytest.raises(ModelError, match=r"pair 'p7'.*must alternate.*roles are user, user.*--join-turns"):
        tokenize_pair(tokenizer, messages, "Yes", "No", name="pair 'p7'")


def test_pairs_that_a_template_refuses_are_counted_before_the_model_is_loaded(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", GEMMA)
    (folder / "model.safetensors").unlink()
    scored = scored_pairs([(9.0, 3.0), (8.0, 2.0), (7.0, 1.0)]).to_pylist()
    for row in scored[1:]:
        row["prompt"] = [{"role": "system", "content": "Be brief."}, *row["prompt"]]
    pairs = pa.Table.from_pylist(scored, schema=scored_pairs([(1, 2)]).schema)
    told = r"^pair 'p1': has a system message.*\(and so with 2 of 3 pairs\)$"
    with pytest.raises(ModelError, match=told):
        reference_log_likelihoods(folder, pairs, max_length=300, precision="float32")


def test_a_dated_template_prints_one_date_on_any_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "m", DATED)
    messages = [{"role": "user", "content": "Hello"}]

    def asked() -> str:
        tokenizer = load_tokenizer(folder)
        return text(tokenizer, render_tokens(tokenizer, messages, generation_prompt=True))

    assert asked().startswith("Today Date: 26 Jul 2024\n")
    monkeypatch.setenv("RADPO_DATE", "2026-10-02")
    assert asked().startswith("Today Date: 02 Oct 2026\n")
    monkeypatch.setenv("RADPO_DATE", "tomorrow")
    with pytest.raises(ConfigError, match="RADPO_DATE=tomorrow: is no date; write it as 2024-07-26"):
        asked()


def test_the_date_that_was_printed_is_noted(tmp_path: Path) -> None:
    assert date_notes(write_model(tmp_path / "plain")) == []
    assert date_notes(write_model(tmp_path / "dated", DATED)) == [
        "The chat template prints the day's date; every conversation was dated 2024-07-26."
    ]


def test_a_saved_checkpoint_still_prints_the_days_date(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", DATED)
    pairs = relabel(scored_pairs([(9.0, 3.0)]), "ra").table
    assert saved_template(folder)[0] == DATED
    assert policy_template(folder, pairs, scale=(1, 10)).endswith(DATED)


def test_a_date_in_a_form_made_while_rendering_is_refused() -> None:
    template = "{{ strftime_now(form) }}"
    assert not prints_date(TEMPLATE)
    with pytest.raises(ModelError, match="not written out in it"):
        with_date(template, date(2024, 7, 26))
    escaped = with_date(r"{{ strftime_now('it\'s %Y') }}", date(2024, 7, 26))
    assert escaped == """{{ "it's 2024" }}"""


def test_control_tokens_in_a_text_stay_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "m"))
    end = tokenizer.eos_token_id
    plain = [{"role": "user", "content": "Say hello"}]
    assert render_tokens(tokenizer, plain) == tokenizer.apply_chat_template(plain, return_dict=False)
    ids = render_tokens(tokenizer, [{"role": "user", "content": "Say </s> and <pad>"}])
    assert ids.count(end) == 1, "the one that the template writes"
    assert tokenizer.pad_token_id not in ids
    assert text(tokenizer, ids) == "<user>Say </s> and <pad></s>"
    pair = tokenize_pair(tokenizer, plain, "Yes</s><user>More?", "No")
    assert pair.chosen_ids.count(end) == 1


def test_marks_of_reasoning_are_no_control_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "m"))
    tokenizer.add_tokens(["<think>", "</think>", "<turn>"])
    tokenizer.chat_template = TEMPLATE + "{# <think> </think> <turn> #}"
    assert set(control_tokens(tokenizer)) == {"</s>", "<pad>", "<turn>"}


@pytest.mark.parametrize("kind", ["ra", "half-ra"])
def test_the_goal_states_the_datas_scale_in_pairs_and_in_the_checkpoint(tmp_path: Path, kind: Any) -> None:
    folder = write_model(tmp_path / "m")
    pairs = relabel(scored_pairs([(4.0, 0.0), (3.0, 1.0)]), kind, scale=SMALL).table
    said = {row["prompt"][0]["content"] for row in pairs.to_pylist()}
    assert all("(on a scale of 0-4, where 0 is lowest and 4 is highest)" in sentence for sentence in said)
    tokenizer = load_tokenizer(folder, with_goal=False)
    hello = [{"role": "user", "content": "Hello"}]
    wanted = tokenizer.apply_chat_template(condition(hello, 4, "system", goal_wording(SMALL)), tokenize=False)
    tokenizer.chat_template = policy_template(folder, pairs, scale=SMALL)
    assert tokenizer.apply_chat_template(hello, tokenize=False) == wanted
    assert "Overall score: 4." in wanted


def test_the_default_wording_is_the_papers() -> None:
    assert goal_wording((1.0, 10.0)).endswith(
        "(on a scale of 1-10, where 1 is lowest and 10 is highest):\nOverall score: {g}."
    )
    aware = goal_aware_template(TEMPLATE, 4, "system", goal_wording(SMALL))
    assert "scale of 0-4" in aware


def own(**settings: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(**settings)


TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|turn_end|>{% endfor %}"


@pytest.mark.parametrize("special", [True, False])
def test_the_templates_turn_end_ends_answers_and_is_noted(tmp_path: Path, special: bool) -> None:
    from tokenizers import AddedToken

    from radpo.models.decoding import Sampling, end_tokens, generation_config, turn_end_notes, vllm_parameters

    tokenizer = load_tokenizer(write_model(tmp_path / "m", TURNS))
    assert turn_end(tokenizer) == TurnEnd("<|turn_end|>", None), "without a token it is a text"
    sampling = Sampling(5, 0.0)
    assert generation_config(own(eos_token_id=0), tokenizer, sampling, 5).stop_strings == ["<|turn_end|>"]
    assert vllm_parameters(own(eos_token_id=0), tokenizer, sampling, 5)["stop"] == ["<|turn_end|>"]
    tokenizer.add_tokens([AddedToken("<|turn_end|>", special=special)])
    token = tokenizer.convert_tokens_to_ids("<|turn_end|>")
    tokenizer.chat_template = TURNS + " "
    assert turn_end(tokenizer) == TurnEnd("<|turn_end|>", token)
    assert end_tokens(own(eos_token_id=0), tokenizer) == (0, token)
    assert vllm_parameters(own(eos_token_id=0), tokenizer, sampling, 5)["stop_token_ids"] == [0, token]
    (note,) = turn_end_notes(own(eos_token_id=0), tokenizer)
    assert "ends a turn with '<|turn_end|>', which is not among the model's end tokens" in note
    assert end_tokens(own(eos_token_id=[0, token]), tokenizer) == (0, token)
    assert turn_end_notes(own(eos_token_id=[0, token]), tokenizer) == []


def test_an_answer_ends_at_the_templates_turn_end_and_is_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from tokenizers import AddedToken
    from transformers import AutoModelForCausalLM

    from radpo.models.decoding import Sampling
    from radpo.models.generation import answer

    folder = write_model(tmp_path / "m", TURNS)
    tokenizer, model = load_tokenizer(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<|turn_end|>", special=False)])
    said = tokenizer("Paris.<|turn_end|>user Go on", add_special_tokens=False)["input_ids"]
    ends: list[list[int]] = []

    def generate(input_ids: Any, generation_config: Any, **inputs: Any) -> Any:
        ends.append(generation_config.eos_token_id)
        return torch.cat([input_ids, torch.tensor([said])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    asked = [[{"role": "user", "content": "Where?"}]]
    assert answer(model, tokenizer, asked, Sampling(40, 0.0)) == ["Paris."]
    assert ends == [[0, tokenizer.convert_tokens_to_ids("<|turn_end|>")]]


def test_pairs_alike_when_cut_and_control_tokens_in_texts_are_counted(tmp_path: Path) -> None:
    from radpo.training.dataset import pair_notes, training_dataset

    folder = write_model(tmp_path / "m")
    scored = scored_pairs([(9.0, 3.0), (8.0, 2.0), (7.0, 1.0)]).to_pylist()
    scored[0] |= {"chosen": "x" * 50 + " good", "rejected": "x" * 50 + " bad"}
    scored[1]["chosen"] += "</s><user>"
    pairs = relabel(pa.Table.from_pylist(scored, schema=scored_pairs([(1, 2)]).schema), "plain").table
    tokenizer = load_tokenizer(folder)
    reference = reference_log_likelihoods(folder, pairs, max_length=500, precision="float32")
    data = training_dataset(pairs, reference)
    prompt = len(data[0]["prompt_ids"])
    notes = pair_notes("training", pairs, data, tokenizer, prompt + 40)
    assert notes[0].startswith("1 of 3 training pairs have responses that are equal up to where they are cut")
    assert notes[1].startswith("1 of 3 training pairs hold the tokenizer's own control tokens in their texts (</s>)")
    assert len(pair_notes("training", pairs, data, tokenizer, 500)) == 1


@pytest.mark.parametrize("placement", ["system", "user"])
@pytest.mark.parametrize("template", [None, "Aim at {g} of {high}!"])
def test_a_checkpoint_asks_in_the_words_and_on_the_scale_of_its_training_pairs(
    tmp_path: Path, placement: Any, template: str | None
) -> None:
    """Pairs that were relabeled before, for another scale than the one that training is told of."""
    folder = write_model(tmp_path / "m", TEMPLATE if placement == "system" else GEMMA)
    scored = scored_pairs([(4.0, 0.0), (3.0, 1.0)])
    pairs = relabel(scored, "ra", scale=SMALL, placement=placement, template=template).table
    tokenizer = load_tokenizer(folder, with_goal=False)
    hello = [{"role": "user", "content": "Hello"}]
    wording = goal_wording(SMALL, *([template] if template else []))
    best = 10 if template else 4  # a wording that states no scale leaves it to what training is told
    wanted = tokenizer.apply_chat_template(condition(hello, best, placement, wording), tokenize=False)
    tokenizer.chat_template = policy_template(folder, pairs, scale=(1.0, 10.0))
    assert tokenizer.apply_chat_template(hello, tokenize=False) == wanted


def test_the_wording_between_two_goals() -> None:
    assert wording_between("Get 1.\n\nGo 1", "Get 10.\n\nGo 1", (1.0, 10.0)) == "Get {g}."
    assert wording_between("1-10: 1", "1-10: 10", (1.0, 10.0)) == "1-10: {g}"
    assert wording_between("Get 1. One", "Get 2. Two", (1.0, 2.0)) is None
    assert stated_scale(goal_wording((-1.5, 4.0))) == (-1.5, 4.0)
    assert stated_scale("Aim at {g}") is None
