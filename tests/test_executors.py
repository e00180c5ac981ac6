"""Executors: stages in other processes, killed, interrupted, side by side, by two runs at once, on a Ray cluster."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cheap_stages import COUNT, InlinePool, Watcher, run_inline, stage
from factories import write_plugin
from run_cheap import graph

from radpo.core.errors import ConfigError
from radpo.engine.executors import find_executor
from radpo.engine.graph import Stage, in_order
from radpo.engine.local import LocalPool, gpu_of
from radpo.engine.schedule import StageError, run_stages
from radpo.engine.store import Store

SCRIPT = Path(__file__).with_name("run_cheap.py")


def run_local(store: Store, *wanted: Stage, jobs: int = 2, **options: Any) -> Watcher:
    watcher = Watcher()
    run_stages(wanted, store, LocalPool(store, jobs), watcher, **options)
    return watcher


def start(store: Path, trace: Path, jobs: int, sleep: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(store), str(trace), str(jobs), str(sleep)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def is_gone(group: int) -> bool:
    """Whether a process group ends within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def texts(store: Store, stages: list[Stage]) -> dict[str, str]:
    return {one.name: (store.folder(one) / "text").read_text() for one in stages}


def written(store: Store) -> int:
    """Bytes in the stages' logs, which grow whenever a stage is begun."""
    return sum(path.stat().st_size for path in (store.root / "logs").glob("*.log"))


def spans(store: Store, *stages: Stage) -> list[tuple[float, float]]:
    """When each stage's work began and ended, in seconds since 1970."""
    from datetime import datetime

    records = [store.record(one.key) for one in stages]
    begins = [datetime.fromisoformat(record["started"]).timestamp() for record in records]
    return [(begin, begin + record["seconds"]) for begin, record in zip(begins, records, strict=True)]


def test_independent_stages_overlap_and_dependent_ones_do_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left, right = (stage(name, name, hints={"sleep": 0.6}) for name in ("left", "right"))
    top = stage("top", "t", left=left, right=right)
    watcher = run_local(store, top)
    (begin_left, end_left), (begin_right, end_right), (begin_top, _) = spans(store, left, right, top)
    assert max(begin_left, begin_right) < min(end_left, end_right)
    assert begin_top >= max(end_left, end_right) - 0.01
    assert ("left", 12, 12) in watcher.progress
    assert (store.folder(top) / "text").read_text() == "leftrightt"


def test_cores_are_divided_among_jobs(tmp_path: Path) -> None:
    from radpo.core.machine import cores

    store, one = Store(tmp_path), stage("one", 1)
    run_local(store, one, jobs=2)
    assert store.record(one.key)["machine"]["threads"] == max(1, cores() // 2)


def test_gpus_are_divided_among_workers() -> None:
    assert [gpu_of(place, 2, None) for place in range(3)] == ["0", "1", "0"]
    assert [gpu_of(place, 2, "3, GPU-abc") for place in range(2)] == ["3", "GPU-abc"]
    assert gpu_of(0, 1, "3") is None


def test_what_a_stage_prints_is_in_its_log_and_nowhere_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store, one = Store(tmp_path), stage("one", 1)
    run_local(store, one)
    assert "writing one" in store.log(one).read_text()
    assert capfd.readouterr().out == ""


def test_a_failed_stage_shows_its_log_and_what_depends_on_it(tmp_path: Path) -> None:
    bad = stage("bad", "b", hints={"fail": True})
    top = stage("top", "t", middle=stage("middle", "m", bad=bad))
    with pytest.raises(StageError) as failure:
        run_local(Store(tmp_path), top, stage("other", "o"), jobs=1, keep_going=True)
    told = str(failure.value)
    assert "bad failed: ValueError: no luck" in told
    assert 'raise ValueError("no luck")' in told, "the log's last lines"
    assert "depend on it: middle, top" in told
    assert "1 of 4 stages are in the store" in told


@pytest.mark.parametrize("keep_going", [True, False])
def test_a_failure_is_told_to_whoever_pays_unless_to_keep_going(tmp_path: Path, keep_going: bool) -> None:
    store, told = Store(tmp_path), list[str]()
    stages = [stage("bad", "b", hints={"fail": True}), stage("other", "o")]
    with pytest.raises(StageError):
        run_stages(
            stages, store, InlinePool(store), Watcher(), keep_going=keep_going, on_failure=lambda: told.append("stop")
        )
    assert told == ([] if keep_going else ["stop"])


@pytest.mark.parametrize("keep_going", [True, False])
def test_after_a_failure_only_keep_going_goes_on(tmp_path: Path, keep_going: bool) -> None:
    bad = stage("bad", "b", hints={"fail": True})
    others = [stage(f"other {n}", n) for n in range(3)]
    with pytest.raises(StageError):
        run_local(Store(tmp_path), bad, *others, jobs=1, keep_going=keep_going)
    assert len(Store(tmp_path).finished()) == (3 if keep_going else 0)


def test_a_killed_worker_fails_its_stage_and_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    others = [stage(f"other {n}", n) for n in range(3)]
    with pytest.raises(StageError, match=r"its process was killed \(signal 9\), as a machine that runs out of memory"):
        run_local(store, stage("dies", "d", hints={"die": True}), *others, keep_going=True)
    assert len(store.finished()) == 3


def test_the_stages_that_hold_up_most_work_go_first(tmp_path: Path) -> None:
    short, long = stage("short", "s"), stage("long", "l")
    watcher = run_inline(Store(tmp_path), short, long, stage("top", "t", long=long), weights={long.key: 0.1})
    assert watcher.computed[0] == "long"


def test_two_runs_on_one_store_compute_each_stage_once(tmp_path: Path) -> None:
    store, trace = tmp_path / "store", tmp_path / "trace"
    runs = [start(store, trace, jobs=2, sleep=0.2) for _ in range(2)]
    said = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    computed = Counter(line for out, _ in said for line in out.splitlines() if line.startswith("computed"))
    names = {one.name for one in in_order(graph(trace, 0.2))}
    assert computed == {f"computed {name}": 1 for name in names}
    assert set(Counter(trace.read_text().splitlines()).values()) == {1}
    assert all(any(line.startswith("computed") for line in out.splitlines()) for out, _ in said), "both had their share"


def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(tmp_path: Path) -> None:
    store, trace = tmp_path / "store", tmp_path / "trace"
    run = start(store, trace, jobs=2, sleep=1.0)
    while not Store(store).finished():
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to the whole group
    run.communicate(timeout=20)
    assert run.returncode not in (0, None)
    assert is_gone(run.pid)
    done = Store(store).finished()
    assert done
    assert all(Store(store).damage(key, full=True) is None for key in done)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    run = start(tmp_path / "store", tmp_path / "trace", jobs=2, sleep=5.0)
    while not (tmp_path / "trace").exists():
        time.sleep(0.02)
    run.kill()
    run.communicate(timeout=20)
    assert is_gone(run.pid)


def test_kills_and_damage_at_random_change_nothing_in_the_end(tmp_path: Path) -> None:
    """The short form of benchmarks/faults/quickstart.py, on cheap stages."""
    chance = random.Random(7)
    store, trace = Store(tmp_path / "torn"), tmp_path / "trace"
    stages = in_order(graph(trace, 0.12))
    run_inline(Store(tmp_path / "whole"), *graph(tmp_path / "trace of the whole", 0.0))
    hurt = kills = 0
    finished: dict[str, str] = {}
    for attempt in range(8):
        begun = written(store)
        run = start(store.root, trace, jobs=2, sleep=0.12)
        while run.poll() is None and written(store) == begun:  # the moments are random from the first sign of life on
            time.sleep(0.01)
        try:
            run.communicate(timeout=chance.random() * 0.5)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            kills += 1
        assert all(store.record(key)["started"] == when for key, when in finished.items()), "a whole stage was redone"
        finished = {one.key: store.record(one.key)["started"] for one in stages if store.has(one)}
        if attempt % 2 and (done := [one for one in stages if store.folder(one).is_dir()]):
            victim = chance.choice(done)
            path = chance.choice(sorted(path for path in store.folder(victim).iterdir()))
            hurt += 1
            finished.pop(victim.key, None)
            if chance.random() < 0.5 or not path.stat().st_size:
                path.unlink()
            else:
                content = bytearray(path.read_bytes())
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(7)
                path.write_bytes(content)
    last = start(store.root, trace, jobs=2, sleep=0.0)
    out, errors = last.communicate(timeout=60)
    assert last.returncode == 0, out + errors
    assert kills >= 3
    assert hurt
    assert texts(store, stages) == texts(Store(tmp_path / "whole"), stages)
    assert all(store.record(key)["started"] == when for key, when in finished.items()), "a whole stage was redone"


def test_a_resumable_stage_goes_on_after_a_kill(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slow = Stage("slow", "count", COUNT, {"to": 6}, {}, {"sleep": 0.3})
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from cheap_stages import *; from pathlib import Path; "
        "s = Stage('slow', 'count', COUNT, {'to': 6}, {}, {'sleep': 0.3}); run_inline(Store(Path(sys.argv[1])), s)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(SCRIPT.parent)], stdout=subprocess.DEVNULL)
    while len(list((tmp_path / "partial").glob("*/work/*"))) < 2:
        assert run.poll() is None
        time.sleep(0.02)
    run.kill()
    run.wait()
    run_local(store, slow)
    began = [path.name for path in store.folder(slow).glob("began-at-*")]
    assert len(began) == 1
    assert int(began[0].removeprefix("began-at-")) >= 2
    assert store.record(slow.key)["resumed"], "its seconds are not those of the whole work"


def test_an_executor_that_is_none_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="executor 'slurm': no such executor; there are local, ray"):
        find_executor("slurm")


def test_an_executor_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = (
        "from cheap_stages import InlinePool\nfrom radpo.core.plugins import NoSettings\n"
        "from radpo.engine.executors import Executor\n"
        "EXECUTOR = Executor('inline', NoSettings, lambda store, jobs, settings: InlinePool(store))\n"
    )
    write_plugin(tmp_path, "inline", {"radpo.executors": "inline = inline_executor:EXECUTOR"}, inline_executor=module)
    monkeypatch.syspath_prepend(str(tmp_path))
    executor = find_executor("inline")
    assert isinstance(executor.make(Store(tmp_path), None, executor.Settings()), InlinePool)


def test_a_stage_that_no_node_could_hold_is_refused_instead_of_waited_for() -> None:
    from radpo.engine.ray_pool import _Cluster

    machine = _Cluster(None, None, [{"CPU": 1.0, "memory": 2e9}, {"CPU": 2.0}])
    machine.demand(stage("modest", "m"), {"CPU": 2, "GPU": 0, "memory": 1e9})
    with pytest.raises(ConfigError, match=r"resources\.write: greedy asks for 4 CPU, and this machine has 2 for Ray"):
        machine.demand(stage("greedy", "g"), {"CPU": 4})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two Ray nodes on this machine, one core each; stages find the tests' modules as this process does."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[1])]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def test_a_matrix_on_a_ray_cluster_survives_the_death_of_a_node(tmp_path: Path, cluster: Any) -> None:
    from radpo.engine.ray_pool import RayPool

    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    store = Store(tmp_path / "ray")
    trace = tmp_path / "trace"
    stages = in_order(graph(trace, 2.0))
    places: set[str] = set()

    class KillANode(Watcher):
        """Kills the second node while each node is in the middle of a stage."""

        killed = False
        middle: ClassVar[set[str]] = set()

        def progresses(self, stage: Stage, done: int, total: int) -> None:
            (self.middle.add if 0 < done < total / 2 else self.middle.discard)(stage.name)
            if not self.killed and len(self.middle) == 2:
                self.killed = True
                cluster.remove_node(node, allow_graceful=False)

    watcher = KillANode()
    run_stages(graph(trace, 2.0), store, RayPool(store, None, cluster.address), watcher)
    assert watcher.killed
    assert watcher.failed == []
    run_inline(Store(tmp_path / "here"), *graph(tmp_path / "another trace", 0.0))
    assert texts(store, stages) == texts(Store(tmp_path / "here"), stages)
    for one in stages:
        places |= {line.split("process ")[1] for line in store.log(one).read_text().splitlines() if "---" in line}
    assert len(places) >= 2, "more than one process was at work"
    tries = [store.log(one).read_text().count("--- ") for one in stages]
    assert max(tries) >= 2, "a stage was begun again after its node had died"
    assert json.loads((store.folder(stages[0]) / "stage.json").read_text())["machine"]["threads"] == 1
