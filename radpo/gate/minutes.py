"""What a run's benchmarks took, by its manifest: so that a gate can say how long more examples would take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def seconds_by_benchmark(manifest: Mapping[str, Any], benchmarks: Iterable[str]) -> dict[str, float]:
    """Seconds of computing by benchmark: of its answers, log-likelihoods, samples and judgments, training apart.

    Under the empty name: what one seed took, training and all. Stages that several benchmarks share count for each.

    Args:
        manifest: a run directory's; nothing is found where it is of a release that did not name stages' inputs.
    """
    from radpo.matrix.training_stages import FUNCTIONS

    stages = {stage["key"]: stage for stage in manifest.get("stages", []) if "inputs" in stage}
    if not stages:
        return {}
    function = {key: str(stage["name"]).partition("/")[0] for key, stage in stages.items()}

    def measuring(key: str) -> Iterator[str]:
        """A stage and all that it rests on, up to what trains."""
        if key in stages and function[key] not in FUNCTIONS:
            yield key
            for other in stages[key]["inputs"]:
                yield from measuring(other)

    found = {
        benchmark: sum(
            stages[key]["seconds"]
            for key in {key for last in stages if function[last] == benchmark for key in measuring(last)}
        )
        for benchmark in benchmarks
    }
    return found | {"": sum(stage["seconds"] for stage in stages.values()) / max(len(manifest.get("seeds", [])), 1)}
