"""The Ray executor: every stage is a Ray task with the cores, GPUs and memory that it asks for; the store is shared.

Nodes reach the store under the same path, or it is an fsspec URL. When a node dies, Ray gives its stages to another,
where a resumable stage resumes from what it had saved. Needs the extra `ray`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from radpo.core.errors import ConfigError, ServiceError
from radpo.core.optional import need_package
from radpo.core.paid_work import announcing
from radpo.engine.devices import gpus_of
from radpo.engine.execute import Outcome, divide_threads, execute
from radpo.engine.executors import Executor
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event
from radpo.engine.servers import gpus_of_servers
from radpo.engine.store import Store

NODE_DEATHS = 3
"""How often a stage is begun again because its node or its process died under it."""
UNLIMITED = 10_000
STOP_SECONDS = 5.0
"""How long a stage that is asked to stop may take before it is killed, unless it waits for what is paid for."""
_POLL_SECONDS = 0.25
_PAYING = -1
"""In place of how much is done: whether the stage waits for what is paid for."""


class RaySettings(BaseModel):
    """The options of the executor `ray`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = Field(
        None,
        description="A Ray cluster's address, or `auto`. Default: one on this machine, which ends with the run.",
    )


class RayPool:
    """A Ray cluster: an existing one by its address, or one on this machine that ends with the run.

    How many stages run at once follows from the resources: one core each, and one GPU each for what loads a model where
    the cluster has GPUs, unless the matrix file says otherwise under `resources`.
    """

    def __init__(self, store: Store, jobs: int | None, address: str | None) -> None:
        self.slots = jobs or UNLIMITED
        self._store = store
        self._address = address
        self._cluster: _Cluster | None = None
        """None until there is something to compute."""
        self._at_work: dict[Any, Stage] = {}
        self._paying: set[str] = set()
        """The keys of the stages that wait for what is paid for."""

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Hand a stage to the cluster, which begins it once a node has what it asks for.

        Raises:
            ServiceError: there is no cluster at the address.
            ConfigError: the stage asks for more than this machine, being the cluster, has.
        """
        self._cluster = self._cluster or _connect(self._address)
        asked = stage.hints.get("resources", {})
        cpus = asked.get("cpus", 1)
        there = self._cluster.has("GPU")
        gpus = gpus_of(stage) + gpus_of_servers(stage) if there else asked.get("gpus", 0)
        memory = int(asked["memory_gib"] * 2**30) if "memory_gib" in asked else None
        if self._address is None:  # another cluster may grow
            self._cluster.demand(stage, {"CPU": cpus, "GPU": gpus, "memory": memory or 0})
        task = self._cluster.task.options(name=stage.name, num_cpus=cpus, num_gpus=gpus, memory=memory)
        self._at_work[task.remote(stage, self._store, notes, cpus, self._cluster.queue)] = stage

    def events(self, seconds: float) -> list[Event]:
        """What the tasks sent; one that Ray gave up failed its stage."""
        import ray
        from ray.exceptions import RayError

        if self._cluster is None:
            time.sleep(seconds)
            return []
        by_key = {stage.key: stage for stage in self._at_work.values()}
        finished, _ = ray.wait(list(self._at_work), timeout=seconds) if self._at_work else ([], [])
        events = [Event(by_key[key], done, total) for key, done, total in self._news(self._cluster) if key in by_key]
        for reference in finished:
            stage = self._at_work.pop(reference)
            try:
                outcome = ray.get(reference)
            except RayError as error:
                reason = str(error).strip().splitlines()[0]
                outcome = Outcome("failed", f"Ray gave up after {NODE_DEATHS} restarts: {reason}", exit_status=3)
            events.append(Event(stage, outcome=outcome))
        return events

    def _news(self, cluster: _Cluster) -> list[tuple[str, int, int]]:
        """How far stages are; which of them are paying is noted."""
        news = cluster.progress()
        for key, done, total in news:
            if done == _PAYING:
                (self._paying.add if total else self._paying.discard)(key)
        return [one for one in news if one[1] != _PAYING]

    def close(self) -> None:
        """Cancel what is being computed, wait for what is paid for and on its way, and let go of the cluster."""
        if self._cluster is None:
            return
        import ray
        from ray.exceptions import RayError

        for force in (False, True):
            for reference in self._at_work:
                with suppress(RayError):
                    ray.cancel(reference, force=force)
            if not force:
                self._wait_for_the_paid(self._cluster)
        self._at_work, self._cluster = {}, None
        ray.shutdown()

    def _wait_for_the_paid(self, cluster: _Cluster) -> None:
        """Wait until what was interrupted has ended; for long only where it waits for what is paid for."""
        import ray

        begun = time.monotonic()
        while self._at_work:
            ended, _ = ray.wait(list(self._at_work), num_returns=len(self._at_work), timeout=_POLL_SECONDS)
            for reference in ended:
                self._paying.discard(self._at_work.pop(reference).key)
            self._news(cluster)
            if time.monotonic() - begun > STOP_SECONDS and not self._paying:
                return


def _ready(settings: RaySettings, stages: Sequence[Stage]) -> None:
    need_package("ray", "executor ray", "radpo[ray]")


EXECUTOR = Executor("ray", RaySettings, lambda store, jobs, settings: RayPool(store, jobs, settings.address), _ready)


@dataclass(frozen=True)
class _Cluster:
    task: Any
    queue: Any
    """A queue on this node, through which stages tell how far they are."""
    nodes: list[dict[str, float]]

    def has(self, resource: str) -> bool:
        return any(node.get(resource) for node in self.nodes)

    def demand(self, stage: Stage, asked: Mapping[str, float]) -> None:
        """Ray would wait for ever for a node that has what none has."""
        for resource, amount in asked.items():
            most = max(node.get(resource, 0) for node in self.nodes)
            if amount > most:
                raise ConfigError(
                    f"resources.{stage.function_name}: {stage.name} asks for {amount:g} {resource}, and this machine "
                    f"has {most:g} for Ray"
                )

    def progress(self) -> list[tuple[str, int, int]]:
        waiting = self.queue.qsize()
        found: list[tuple[str, int, int]] = self.queue.get_nowait_batch(waiting) if waiting else []
        return found


def _connect(address: str | None) -> _Cluster:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False,
                 logging_level=logging.ERROR, ignore_reinit_error=True)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise ServiceError(f"--address {address}: no Ray cluster is available there: {error}") from error
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return _Cluster(
        task=ray.remote(max_retries=NODE_DEATHS, retry_exceptions=False)(_execute),
        queue=Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}),
        nodes=[node["Resources"] for node in ray.nodes()],
    )


@dataclass(frozen=True)
class _Paying:
    """Tells the pool when a stage pays, and when no more."""

    key: str
    queue: Any

    def set(self) -> None:
        self.queue.actor.put_nowait.remote((self.key, _PAYING, 1))

    def clear(self) -> None:
        self.queue.actor.put_nowait.remote((self.key, _PAYING, 0))


def _execute(stage: Stage, store: Store, notes: Mapping[str, Any], threads: float, queue: Any) -> Outcome:
    divide_threads(max(1, int(threads)))
    with announcing(_Paying(stage.key, queue)):
        return execute(stage, store, notes, lambda done, total: queue.actor.put_nowait.remote((stage.key, done, total)))
