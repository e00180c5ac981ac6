"""Executors: stages in other processes, killed, interrupted, side by side, by two runs at once, on a Ray cluster."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cheap_stages import COUNT, CPU, GPU, InlinePool, Watcher, run_inline, stage
from factories import write_plugin
from run_cheap import graph

from radpo.core.errors import ConfigError
from radpo.engine.devices import gpus_of
from radpo.engine.executors import find_executor
from radpo.engine.graph import Function, Stage, in_order
from radpo.engine.local import LocalPool
from radpo.engine.schedule import StageError, run_stages
from radpo.engine.store import Store

SCRIPT = Path(__file__).with_name("run_cheap.py")


def run_local(store: Store, *wanted: Stage, jobs: int = 2, **options: Any) -> Watcher:
    watcher = Watcher()
    run_stages(wanted, store, LocalPool(store, jobs, ()), watcher, **options)
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


def test_what_is_left_after_a_stage_is_not_searched_for_garbage_again_unless_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radpo.engine.execute.LOAD_SECONDS", 0.0)
    frozen: list[int] = []
    for name, hints in (("fails", {"fail": True}), ("ends", {})):
        gc.unfreeze()
        with suppress(StageError):
            run_inline(Store(tmp_path / "store"), stage(name, name, hints=hints))
        frozen.append(gc.get_freeze_count())
    assert frozen[0] == 0, "an error holds the stage's models"
    assert frozen[1] > 10_000


def test_cores_are_divided_among_jobs(tmp_path: Path) -> None:
    from radpo.core.machine import cores

    store, one = Store(tmp_path), stage("one", 1)
    run_local(store, one, jobs=2)
    assert store.record(one.key)["machine"]["threads"] == max(1, cores() // 2)


def seen(store: Store, one: Stage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.folder(one) / "seen.json").read_text())
    return found


def on_gpus(
    name: str, gpus: float | None = None, *, function: Function = GPU, meet: Path | None = None, **inputs: Stage
) -> Stage:
    hints = {} if gpus is None else {"resources": {"gpus": gpus}}
    return Stage(name, "see", function, {"name": name}, inputs, hints if meet is None else {**hints, "meet": meet})


def test_each_stage_has_gpus_to_itself_and_gives_them_back(tmp_path: Path) -> None:
    """A node of three GPUs, which are pretended: what counts is what each stage's process was told."""
    store, names, meet = Store(tmp_path), ("2", "GPU-a", "7"), tmp_path / "meet"
    meet.mkdir()
    models = [on_gpus(f"model {n}", meet=meet) for n in range(4)]
    training = on_gpus("training", 2, **{f"i{n}": one for n, one in enumerate(models[:2])})
    halves = [on_gpus(f"half {n}", 0.5) for n in range(2)]
    judge = on_gpus("judge", function=CPU)
    pool = LocalPool(store, None, names)
    assert pool.slots == 3
    run_stages([*models, training, *halves, judge], store, pool, Watcher())
    found = {one.name: seen(store, one) for one in [*models, training, *halves, judge]}
    held = {name: tuple(filter(None, one["gpus"].split(","))) for name, one in found.items()}
    assert {name: len(gpus) for name, gpus in held.items()} == {
        **{one.name: 1 for one in (*models, *halves)}, "training": 2, "judge": 0,
    }  # fmt: skip
    assert {gpu for gpus in held.values() for gpu in gpus} <= set(names)
    whole = [name for name in found if not name.startswith("half")]
    overlaps = [
        (a, b) for a in whole for b in found
        if a != b and max(found[a]["began"], found[b]["began"]) < min(found[a]["ended"], found[b]["ended"])
    ]  # fmt: skip
    assert overlaps, "stages did run side by side"
    assert all(set(held[a]).isdisjoint(held[b]) for a, b in overlaps)


def test_one_after_the_other_stages_of_a_kind_share_a_process_and_a_gpu_that_is_needed_is_let_go(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    first = on_gpus("first")
    second = on_gpus("second", a=first)
    judge = on_gpus("judge", function=CPU, a=second)
    both = on_gpus("both", 2, a=judge)
    pool = LocalPool(store, 1, ("0", "1"))
    run_stages([both], store, pool, Watcher())
    assert [seen(store, one)["gpus"] for one in (first, second, judge, both)] == ["0", "0", "0", "0,1"]
    assert len({seen(store, one)["process"] for one in (first, second, judge)}) == 1
    assert seen(store, both)["process"] != seen(store, judge)["process"]
    with pytest.raises(ConfigError, match=r"resources\.see\.gpus: 3 are asked for, and this machine has 2"):
        run_stages([on_gpus("all", 3)], store, LocalPool(store, 1, ("0", "1")), Watcher())


def test_a_stage_of_several_gpus_is_not_kept_waiting_by_later_ones_of_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    small = [on_gpus(f"small {n}") for n in range(4)]
    large = on_gpus("large", 2)
    weights = {large.key: 9.0, small[0].key: 10.0}
    run_stages([*small, large], store, LocalPool(store, 2, ("0", "1")), Watcher(), weights=weights)
    begins = sorted([small[0], *small[1:], large], key=lambda one: seen(store, one)["began"])
    assert begins.index(large) <= 2, "it comes third at the latest, though single GPUs were free before two were"


def test_what_computes_no_model_takes_no_gpu_and_what_may_takes_one() -> None:
    def gpus(function: Function, settings: dict[str, Any], **hints: Any) -> float:
        return gpus_of(Stage("s", "f", function, settings, {}, hints))

    assert gpus(CPU, {}) == 0
    assert gpus(GPU, {}) == 1
    assert gpus(CPU, {"judge_packages": {"torch": "2"}}) == 1, "a reward model judges"
    assert gpus(CPU, {"code": "of another package"}) == 1, "who knows"
    assert gpus(GPU, {}, resources={"gpus": 0}) == 0


def test_the_gpus_of_a_node_are_those_that_cuda_would_see(monkeypatch: pytest.MonkeyPatch) -> None:
    from radpo.core import machine

    monkeypatch.setattr(machine, "_installed_gpus", lambda: ["H100"] * 4)
    cases = {None: "0 1 2 3", "": "", "2, GPU-abc": "2 GPU-abc", "-1": "", "1,9,2": "1", "MIG-a,MIG-b": "MIG-a MIG-b"}
    for said, visible in cases.items():
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if said is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert " ".join(machine.visible_gpus()) == visible
    monkeypatch.setattr(machine, "_installed_gpus", list)
    assert machine.visible_gpus() == ()


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
    with pytest.raises(ConfigError, match="executor 'lsf': no such executor; there are local, ray, slurm"):
        find_executor("lsf")


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
    stages = in_order(graph(trace, 1.0))
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
    run_stages(graph(trace, 1.0), store, RayPool(store, None, cluster.address), watcher)
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
