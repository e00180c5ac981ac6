"""The Ray executor: stages go out as Ray tasks with the cores, GPUs and memory each asks for; the store is shared.

Nodes reach the store under the same path, or it is an fsspec URL. When a node dies, Ray gives its stages to another,
where a resumable stage goes on from what it had saved. Needs the extra `ray`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from radpo.errors import ConfigError, ServiceError
from radpo.matrix.graph import Stage
from radpo.matrix.perform import Outcome, divide_threads, perform
from radpo.matrix.schedule import Event
from radpo.matrix.store import Store

NODE_DEATHS = 3
"""How often a stage is begun again because its node or its process died under it."""
UNLIMITED = 10_000


class RayPool:
    """A Ray cluster: an existing one by its address, or one on this machine that ends with the run.

    How many stages run at once follows from the resources: one core each, and one GPU each for what loads a model where
    the cluster has GPUs, unless the matrix file says otherwise under `resources`.
    """

    def __init__(self, store: Store, jobs: int | None, address: str | None) -> None:
        try:
            import ray
            from ray.util.queue import Queue
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError as error:
            raise ConfigError(
                "--executor ray: Ray is not installed; install it with `pip install radpo[ray]`"
            ) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.slots = jobs or UNLIMITED
        self._ray = ray
        self._store = store
        try:
            ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False,
                     logging_level=logging.ERROR, ignore_reinit_error=True)  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ServiceError(f"--address {address}: no Ray cluster is to be had there: {error}") from error
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._said = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._task = ray.remote(max_retries=NODE_DEATHS, retry_exceptions=False)(_perform)
        self._gpus = any(node["Resources"].get("GPU") for node in ray.nodes())
        self._at_work: dict[Any, Stage] = {}

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Hand a stage to the cluster, which begins it once a node has what it asks for."""
        asked = stage.hints.get("resources", {})
        gpus = asked.get("gpus", 1 if self._gpus and "torch" in stage.function.packages else 0)
        task = self._task.options(
            name=stage.name,
            num_cpus=asked.get("cpus", 1),
            num_gpus=gpus,
            memory=int(asked["memory_gib"] * 2**30) if "memory_gib" in asked else None,
        )
        reference = task.remote(stage, self._store, notes, asked.get("cpus", 1), self._said)
        self._at_work[reference] = stage

    def events(self, seconds: float) -> list[Event]:
        """What the tasks said; one that Ray gave up failed its stage."""
        from ray.exceptions import RayError

        finished, _ = self._ray.wait(list(self._at_work), timeout=seconds) if self._at_work else ([], [])
        by_key = {stage.key: stage for stage in self._at_work.values()}
        events = [Event(by_key[key], done, total) for key, done, total in self._progress() if key in by_key]
        for reference in finished:
            stage = self._at_work.pop(reference)
            try:
                outcome = self._ray.get(reference)
            except RayError as error:
                reason = str(error).strip().splitlines()[0]
                outcome = Outcome(
                    "failed", f"Ray gave it up after {NODE_DEATHS} new beginnings: {reason}", exit_status=3
                )
            events.append(Event(stage, outcome=outcome))
        return events

    def _progress(self) -> list[tuple[str, int, int]]:
        waiting = self._said.qsize()
        said: list[tuple[str, int, int]] = self._said.get_nowait_batch(waiting) if waiting else []
        return said

    def close(self) -> None:
        """Cancel what is being computed, and let go of the cluster."""
        from ray.exceptions import RayError

        for reference in self._at_work:
            with suppress(RayError):
                self._ray.cancel(reference, force=True)
        self._at_work = {}
        self._ray.shutdown()


def _perform(stage: Stage, store: Store, notes: Mapping[str, Any], threads: float, said: Any) -> Outcome:
    divide_threads(max(1, int(threads)))
    return perform(stage, store, notes, lambda done, total: said.actor.put_nowait.remote((stage.key, done, total)))
