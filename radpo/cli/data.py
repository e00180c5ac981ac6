"""The `radpo data` commands."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli.onpolicy import add_on_policy
from radpo.cli.options import (
    Columns,
    FalseTens,
    Json,
    OnErrorOption,
    Out,
    Pairing,
    Scale,
    Seed,
    Source,
    Swap,
    one_of,
    print_counts,
    print_json,
    quiet_libraries,
    reading,
)
from radpo.core.errors import ConfigError, DataError
from radpo.core.say import say

if TYPE_CHECKING:
    from radpo.preferences.goals import Placement

data_app = typer.Typer(help="Check, describe, relabel and make scored preferences.", no_args_is_help=True)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the published questions, prompts, references and baselines that matrix files and commands know by name."""
    from radpo.core.named_data import NAMED, place_of

    found = {name: {**asdict(known), "path": str(place_of(name))} for name, known in NAMED.items()}
    for one in found.values():
        one["here"] = Path(one["path"]).is_file()
    if as_json:
        print_json(found)
        return
    for name, one in found.items():
        state = "here" if one["here"] else f"{one['size'] / 1e3:,.0f} kB to fetch"
        say(f"{name}\n  {one['about']}; {one['licence']}, {one['citation']}; {state}")


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all of `data list`.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch published data once into RADPO_DATA (or radpo's cache), checked by hash; print where each file is."""
    from radpo.core.named_data import NAMED, find_named, place_of

    for name in names or ():
        place_of(name)
    found = {}
    for name in names or NAMED:
        found[name] = str(find_named(name))
        if not as_json:
            say(found[name])
    if as_json:
        print_json(found)


@data_app.command("validate")
def data_validate(
    pairs: Source,
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "raise",
    swap: Swap = False,
    columns: Columns = [],  # noqa: B006 - Typer wants a list, and nothing changes it
    pairing: Pairing = "best-other",
    false_tens: FalseTens = "keep",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check scored pairs; exit status 0 if they are usable, 2 with file, line, column and fix if not."""
    from radpo.core.console import progress_bar
    from radpo.preferences.preferences import PreferenceReader
    from radpo.preferences.sources import shown

    quiet_libraries()
    with progress_bar("reading") as progress:
        reader = PreferenceReader(pairs, reading(scale, on_error, swap, columns, pairing, seed, false_tens), progress)
        usable = sum(batch.num_rows for batch in reader)
    counts = {"rows_read": reader.rows_read, "usable": usable, "dropped": dict(reader.dropped)}
    counts |= {"noted": dict(reader.noted)}
    if not usable:
        reasons = "".join(f"; {count}: {reason}" for reason, count in reader.dropped.items())
        raise DataError(f"{shown(pairs)}: no usable pairs in {reader.rows_read} rows{reasons}")
    if as_json:
        print_json(counts)
    else:
        say(f"{shown(pairs)}: {usable} usable pairs from {reader.rows_read} rows")
        print_counts("dropped", reader.dropped)
        print_counts("noted", reader.noted)


@data_app.command("stats")
def data_stats(
    pairs: Source,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page with figures to this file.")] = None,
    high_score: Annotated[float, typer.Option(help="Responses with at least this score count as high-scored.")] = 5.0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens as this model does: a name, a folder or a Hub id.")
    ] = None,
    heldout: Annotated[
        str | None, typer.Option(metavar="PAIRS", help="Held-out pairs, whose prompts should not be in the set.")
    ] = None,
    against: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=PATH",
            help="Evaluation prompts to search for in the set, by 8-grams; or a YAML file that maps names to paths. "
            "Repeatable.",
        ),
    ] = [],  # noqa: B006
    scale: Scale = (1.0, 10.0),
    columns: Columns = [],  # noqa: B006
    pairing: Pairing = "best-other",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Describe scored pairs: scores, gaps, lengths, duplicates, leakage, overlap with evaluation prompts.

    Rows that training would refuse for what they say (identical or empty responses, swapped scores) are counted among
    the pairs; rows that cannot be read as pairs are counted apart.
    """
    from dataclasses import replace

    from radpo.core.console import progress_bar
    from radpo.preferences.overlap import EvaluationPrompts, load_evaluation_sets
    from radpo.preferences.preferences import PreferenceReader
    from radpo.preferences.profiling import profile, token_counter
    from radpo.preferences.sources import shown
    from radpo.report.data_page import facts, write_data_page

    quiet_libraries()
    sets, missing_sets = load_evaluation_sets(against)
    index = EvaluationPrompts(sets) if sets else None
    lenient = replace(reading(scale, "skip", False, columns, pairing, seed), lenient=True)
    count_tokens = None
    if tokenizer is not None:
        from radpo.models.loading import load_tokenizer, resolve_model

        count_tokens = token_counter(load_tokenizer(resolve_model(tokenizer)))
    kept_out = None if heldout is None else PreferenceReader(heldout, lenient)
    with progress_bar("reading") as progress:
        reader = PreferenceReader(pairs, lenient, progress)
        found = profile(
            reader,
            scale=scale,
            high_score=high_score,
            heldout=kept_out,
            evaluation=index,
            count_tokens=count_tokens,
        )
    found = replace(
        found,
        source=shown(pairs),
        missing_sets=tuple(missing_sets),
        rows_read=reader.rows_read,
        dropped=dict(reader.dropped),
        noted=dict(reader.noted),
        rated="attributes_chosen" in reader.schema.names,
        heldout_dropped=0 if kept_out is None else sum(kept_out.dropped.values()),
    )
    if html is not None:
        write_data_page(found, html)
    if as_json:
        print_json(found.to_json())
        return
    width = max(len(name) for name, _ in facts(found))
    say(f"{shown(pairs)}: {found.rows_read} rows")
    for name, value in facts(found):
        say(f"  {name:<{width}}  {value}")
    for line in found.left_out():
        say(f"  not done: {line}")
    if html is not None:
        say(html)


@data_app.command("clean")
def data_clean(
    pairs: Source,
    out: Out,
    join_system: Annotated[
        bool,
        typer.Option(
            "--join-system",
            help="Put a system message before the first user's message, for chat templates without a system role.",
        ),
    ] = False,
    join_turns: Annotated[
        bool,
        typer.Option("--join-turns", help="Join neighbouring messages of one role, which many chat templates refuse."),
    ] = False,
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "skip",
    swap: Swap = False,
    columns: Columns = [],  # noqa: B006
    pairing: Pairing = "best-other",
    false_tens: FalseTens = "drop",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write scored pairs without what training would refuse, in the form that every command reads.

    Bad rows are left out and counted by reason (identical or empty responses, scores off the scale or the wrong way
    round, control characters, second ids). Turns that HelpSteer2 and hh-rlhf write into a text become messages.
    """
    from radpo.core.console import progress_bar
    from radpo.preferences.cleaning import clean_to
    from radpo.preferences.preferences import PreferenceReader

    quiet_libraries()
    with progress_bar("cleaning") as progress:
        reader = PreferenceReader(pairs, reading(scale, on_error, swap, columns, pairing, seed, false_tens), progress)
        written, changed = clean_to(reader, out, join_system=join_system, join_turns=join_turns)
    if as_json:
        counts = {"rows_read": reader.rows_read, "pairs": written, "dropped": dict(reader.dropped)}
        print_json({**counts, "noted": dict(reader.noted), "changed": dict(+changed)})
        return
    say(f"{out}: {written} pairs from {reader.rows_read} rows")
    print_counts("dropped", reader.dropped)
    print_counts("noted", reader.noted)
    print_counts("changed", +changed)


@data_app.command("relabel")
def data_relabel(
    pairs: Source,
    out: Out,
    kind: Annotated[
        str,
        typer.Option(
            help="ra: two pairs of each, a goal for each response's score. half-ra: the same for a random half of the "
            "prompts. attributes: a goal for each attribute that is scored. ira: implicit rewards in place of "
            "scores, from the columns policy_logp_chosen, reference_logp_chosen and so on. plain: no goals."
        ),
    ] = "ra",
    placement: Annotated[
        str,
        typer.Option(
            help="Where to put the goal. system; user: for chat templates without a system role; auto: as the chat "
            "template of --model requires."
        ),
    ] = "system",
    model: Annotated[
        str | None, typer.Option(help="The model to be trained, for --placement auto: a name, a folder or a Hub id.")
    ] = None,
    goal_text: Annotated[
        Path | None,
        typer.Option(
            help="A text file with the goal's wording, {g} for the score, {low} and {high} for the scale's ends; "
            "default: the paper's."
        ),
    ] = None,
    min_gap: Annotated[
        float, typer.Option(min=0.0, help="Leave out pairs whose scores differ by less than this.")
    ] = 0.0,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Put the training pairs in a random order.")] = False,
    rescale: Annotated[
        str, typer.Option(help="How ira moves implicit rewards to the scale: by rank, or linear.")
    ] = "rank",
    beta: Annotated[
        float, typer.Option(min=0.0, help="The DPO policy's beta, for ira's columns; no goal depends on it.")
    ] = 0.01,
    attribute_scale: Annotated[
        tuple[float, float], typer.Option(help="The lowest and the highest possible score of an attribute.")
    ] = (1.0, 5.0),
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "raise",
    swap: Swap = False,
    columns: Columns = [],  # noqa: B006
    pairing: Pairing = "best-other",
    false_tens: FalseTens = "keep",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Turn scored pairs into training pairs, reward-augmented (arXiv 2410.08067) or plain.

    The result is written batch by batch, so a set may be larger than the memory. It has the columns that TRL's trainers
    take, and id, source_id, side and goal, which say where each pair comes from.
    """
    from radpo.core.console import progress_bar
    from radpo.preferences.goals import read_goal_template
    from radpo.preferences.plan import KINDS, Relabeling
    from radpo.preferences.preferences import PreferenceReader
    from radpo.preferences.streaming import relabel_to

    quiet_libraries()
    one_of("--kind", kind, KINDS)
    one_of("--rescale", rescale, ("rank", "linear"))
    settings = Relabeling(
        kind=kind,  # type: ignore[arg-type]
        placement=_placement(placement, model),
        template=None if goal_text is None else read_goal_template(goal_text),
        min_gap=min_gap,
        shuffle=shuffle,
        seed=seed,
        rescale=rescale,  # type: ignore[arg-type]
        beta=beta,
        scale=scale,
        attribute_scale=attribute_scale,
    )
    with progress_bar("relabeling") as progress:
        reader = PreferenceReader(pairs, reading(scale, on_error, swap, columns, pairing, seed, false_tens), progress)
        counts = relabel_to(reader, settings, out)
    made = counts.used * (1 if kind == "plain" else 2)
    if as_json:
        read = {"rows_read": reader.rows_read, "dropped": dict(reader.dropped), "noted": dict(reader.noted)}
        print_json({"training_pairs": made, **read, **asdict(counts)})
        return
    say(f"{out}: {made} training pairs from {counts.used} of {counts.pairs} scored pairs")
    left_out = {
        "tied scores": counts.ties_dropped,
        "no attribute rated for both responses": counts.unrated_dropped,
        "scores nearer than --min-gap": counts.gap_dropped,
        "the other half of the prompts": counts.other_half,
        **reader.dropped,
    }
    for reason, count in left_out.items():
        if count:
            say(f"  left out {count}: {reason}")
    print_counts("noted", reader.noted)
    if counts.same_goal:
        say(f"  {counts.same_goal} pairs have two goals that read the same; --min-gap 0.01 leaves them out")


def _placement(asked: str, model: str | None) -> Placement:
    """Where goals go; `auto` looks at the model's chat template."""
    one_of("--placement", asked, ("system", "user", "auto"))
    if asked != "auto":
        return "user" if asked == "user" else "system"
    if model is None:
        raise ConfigError("--placement auto: give --model, whose chat template decides")
    from radpo.models.chat_template import placement_of
    from radpo.models.loading import load_tokenizer, resolve_model

    return placement_of(load_tokenizer(resolve_model(model)))


add_on_policy(data_app)
