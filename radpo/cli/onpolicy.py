"""The commands for on-policy data, `radpo data sample|score|pair`: each step's file is the next one's input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpo.cli.options import Model, Out, Seed, one_of, parse_pairs, quiet_libraries
from radpo.core.say import say


def add_on_policy(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("sample")(data_sample)
    app.command("score")(data_score)
    app.command("pair")(data_pair)


def data_sample(
    prompts: Annotated[
        str,
        typer.Argument(
            metavar="PROMPTS",
            help="Prompts (text or messages), such as a preference set's, or questions (question_id, turns, "
            "constraints), in any format that `radpo data validate` reads.",
        ),
    ],
    out: Out,
    model: Model = "smollm2-135m-instruct",
    per_prompt: Annotated[int, typer.Option(min=1, help="Samples of each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at once.")] = 64,
    seed: Seed = 0,
) -> None:
    """Draw several answers to every prompt. Interrupted, the same command resumes where it stopped."""
    from radpo.core.console import progress_bar
    from radpo.models.context import Room, context_of
    from radpo.models.decoding import Sampling
    from radpo.models.generation import answer
    from radpo.models.loading import load_model, load_tokenizer, model_fingerprint, resolve_model
    from radpo.models.precision import settle
    from radpo.preferences.onpolicy import sample
    from radpo.preferences.prompts import load_prompts

    quiet_libraries()
    asked = load_prompts(prompts)
    folder = resolve_model(model)
    precision = settle("auto")
    weights, tokenizer = load_model(folder, precision), load_tokenizer(folder)
    room = Room(context_of(weights, tokenizer))
    with progress_bar("sampling") as progress:
        sample(
            asked,
            lambda conversations, chunk_seed: answer(
                weights,
                tokenizer,
                conversations,
                Sampling(max_new_tokens, temperature, top_p, chunk_seed),
                batch_size=batch_size,
                room=room,
            ),
            out,
            per_prompt=per_prompt,
            seed=seed,
            chunk=batch_size,
            made_by=f"{model_fingerprint(model)} {temperature} {top_p} {max_new_tokens} {precision}",
            progress=progress,
        )
    say(out)
    for note in room.notes():
        say(note)


def data_score(
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES.jsonl", help="As `radpo data sample` writes.")],
    out: Out,
    judge: Annotated[
        str,
        typer.Option(
            help="What scores the samples: a judge or reward model, radpo's or an installed package's (entry "
            "points radpo.judges). verifier: a program, by the share of a prompt's constraints that a sample meets."
        ),
    ] = "verifier",
    judge_set: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="A setting of the judge, such as its model. Repeatable.")
    ] = [],  # noqa: B006 - Typer wants a list, and nothing changes it
    chunk: Annotated[int, typer.Option(min=1, help="Samples scored between two saves.")] = 64,
) -> None:
    """Have a judge or a reward model score every sample. Interrupted, the same command resumes where it stopped."""
    from radpo.core.console import progress_bar
    from radpo.core.plugins import plugin_code, plugin_entries
    from radpo.engine.sources import identify_file
    from radpo.judges.lookup import GROUP, check_settings, find_judge, split_settings
    from radpo.judges.record import judge_notes
    from radpo.judges.samples import score_samples
    from radpo.models.loading import model_fingerprint

    quiet_libraries()
    settings = parse_pairs("--judge-set", judge_set)
    # What cannot change a score, such as a key, is no part of what makes a call the same.
    parts = split_settings(judge, check_settings(judge, settings))
    counted = check_settings(judge, settings).model_dump_json(exclude=set(parts.hints))
    contents = [*map(identify_file, map(str, parts.files.values())), *map(model_fingerprint, parts.models.values())]
    counted = " ".join([counted, *contents, plugin_code(plugin_entries(GROUP)[judge]) or ""]).rstrip()
    scorer, made_by = find_judge(judge, settings), f"{judge} {counted}"
    with progress_bar("scoring") as progress:
        score_samples(samples, scorer, out, chunk=chunk, made_by=made_by, progress=progress)
    say(out)
    for note in judge_notes(scorer, judge):
        say(f"  {note}")


def data_pair(
    scored: Annotated[Path, typer.Argument(metavar="SCORED.jsonl", help="As `radpo data score` writes.")],
    out: Out,
    rule: Annotated[
        str,
        typer.Option(
            help="best-random: the best sample against a random worse one (the paper's). best-worst. adjacent: each "
            "against the next in order of score. all: each against every one that scores lower."
        ),
    ] = "best-random",
    seed: Seed = 0,
) -> None:
    """Make scored pairs of scored samples, each prompt's by one rule."""
    from radpo.preferences.onpolicy import pair
    from radpo.preferences.pairing import RULES
    from radpo.preferences.writing import write_preferences

    one_of("--rule", rule, RULES)
    pairs = pair(scored, rule, seed)  # type: ignore[arg-type]
    write_preferences(pairs.table, out)
    say(f"{out}: {pairs.table.num_rows} pairs")
    for reason, count in pairs.dropped.items():
        say(f"  without a pair, {reason}: {count}")
