"""The `radpo data` commands: options come in, one room does the work, a result or one clear message goes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpo.cli_options import (
    Json,
    Model,
    OnErrorOption,
    Out,
    PairsFile,
    Scale,
    Seed,
    Swap,
    load_pairs,
    one_of,
    print_json,
    quiet_libraries,
)

data_app = typer.Typer(help="Check, relabel and make scored preferences.", no_args_is_help=True)


@data_app.command("validate")
def data_validate(
    pairs: PairsFile,
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "raise",
    swap: Swap = False,
    as_json: Json = False,
) -> None:
    """Check scored pairs; exit status 0 if they are usable, 2 with file, line, column and mend if not."""
    checked = load_pairs(pairs, scale, on_error, swap)
    counts = {"rows_read": checked.rows_read, "usable": checked.table.num_rows, "dropped": dict(checked.dropped)}
    if as_json:
        print_json(counts)
    else:
        print(f"{pairs}: {counts['usable']} of {counts['rows_read']} pairs usable")
        for reason, count in checked.dropped.items():
            print(f"  dropped {count}: {reason}")


@data_app.command("relabel")
def data_relabel(
    pairs: PairsFile,
    out: Out,
    kind: Annotated[str, typer.Option(help="ra: two pairs of each, a goal for each response. plain: no goals.")] = "ra",
    placement: Annotated[
        str, typer.Option(help="Where the goal goes: system, or user for templates without it.")
    ] = "system",
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "raise",
    swap: Swap = False,
) -> None:
    """Turn scored pairs into training pairs, reward-augmented (arXiv 2410.08067) or plain."""
    from radpo.data.relabel import relabel
    from radpo.data.writing import write_preferences

    one_of("--kind", kind, ("plain", "ra"))
    one_of("--placement", placement, ("system", "user"))
    checked = load_pairs(pairs, scale, on_error, swap)
    relabeled = relabel(checked.table, kind, placement=placement)  # type: ignore[arg-type]
    write_preferences(relabeled.table, out)
    dropped = sum(checked.dropped.values())
    print(
        f"{out}: {relabeled.table.num_rows} training pairs from {checked.table.num_rows} "
        f"({relabeled.ties_dropped} ties and {dropped} bad rows left out)"
    )


@data_app.command("sample")
def data_sample(
    questions: Annotated[
        Path, typer.Argument(metavar="PROMPTS.jsonl", help="question_id, category, turns, constraints.")
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
    """Draw several answers to every prompt. Interrupted, the same command goes on where it stopped."""
    from radpo.console import progress_bar
    from radpo.data.onpolicy import sample
    from radpo.data.questions import load_questions
    from radpo.models.generation import Sampling, answer
    from radpo.models.loading import load_model, load_tokenizer, model_fingerprint, resolve_model

    quiet_libraries()
    asked = load_questions(questions)
    folder = resolve_model(model)
    weights, tokenizer = load_model(folder, "auto"), load_tokenizer(folder)
    with progress_bar("sampling") as progress:
        sample(
            asked,
            lambda conversations, chunk_seed: answer(
                weights,
                tokenizer,
                conversations,
                Sampling(max_new_tokens, temperature, top_p, chunk_seed),
                batch_size=batch_size,
            ),
            out,
            per_prompt=per_prompt,
            seed=seed,
            chunk=batch_size,
            made_by=f"{model_fingerprint(model)} {temperature} {top_p} {max_new_tokens}",
            progress=progress,
        )
    print(out)


@data_app.command("score")
def data_score(
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES.jsonl", help="As `radpo data sample` writes.")], out: Out
) -> None:
    """Grade every sample 1-10 with the verifier, by the share of its prompt's constraints that it meets."""
    from radpo.console import progress_bar
    from radpo.data.onpolicy import score
    from radpo.judges.verifier import Verifier

    with progress_bar("scoring") as progress:
        score(samples, Verifier(), out, progress=progress)
    print(out)


@data_app.command("pair")
def data_pair(
    scored: Annotated[Path, typer.Argument(metavar="SCORED.jsonl", help="As `radpo data score` writes.")],
    out: Out,
    rule: Annotated[str, typer.Option(help="best-random (the paper's) or best-worst.")] = "best-random",
    seed: Seed = 0,
) -> None:
    """Make scored pairs of graded samples: the best of a prompt's against a worse one."""
    from radpo.data.onpolicy import pair
    from radpo.data.writing import write_preferences

    one_of("--rule", rule, ("best-random", "best-worst"))
    pairs = pair(scored, rule, seed)  # type: ignore[arg-type]
    write_preferences(pairs.table, out)
    print(f"{out}: {pairs.table.num_rows} pairs")
    for reason, count in pairs.dropped.items():
        print(f"  without a pair, {reason}: {count}")
