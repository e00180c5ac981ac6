"""How long work takes, by a machine's speed and the store's records.

The first guess goes by the speed of a matrix product, measured here or taken from a data sheet. Where the store has
stages of the same kind that the same machine computed, the guess is corrected by how those came out.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from radpo.benchmarks.work import Work
from radpo.core.errors import ConfigError
from radpo.core.machine import describe_machine, gpus
from radpo.core.suggestions import did_you_mean
from radpo.engine.store import Store
from radpo.models.speeds import speeds


@dataclass(frozen=True)
class Machine:
    """A machine's speed for one stage at a time.

    Args:
        float32: floating-point operations a second of a matrix product in float32; `bfloat16` likewise.
        bandwidth: bytes a second from memory.
        layer_seconds: what a layer of a model takes in one step of writing however small the batch is.
        threads: CPU threads that a stage has; None where a GPU computes.
        this: whether it is the machine that the plan is made on, so that the store's records speak of it.
        gpus: how many GPUs compute, each one stage at a time; the speeds are of one.
        memory: bytes of a GPU's memory, None where no GPU computes.
        source: where the speeds are from.
    """

    name: str
    float32: float
    bfloat16: float
    bandwidth: float
    layer_seconds: float
    threads: int | None = None
    this: bool = False
    gpus: int = 1
    memory: float | None = None
    source: str = "measured here"


SHEET = "NVIDIA's data sheet: dense tensor-core rates, of which 70%, as matrix products of a usual size reach"
KNOWN = {
    "a100-80gb": Machine("a100-80gb", 0.7 * 19.5e12, 0.7 * 312e12, 2.0e12, 8e-4, memory=80e9, source=SHEET),
    "h100-sxm": Machine("h100-sxm", 0.7 * 67e12, 0.7 * 989e12, 3.35e12, 7e-4, memory=80e9, source=SHEET),
    "h200-sxm": Machine("h200-sxm", 0.7 * 67e12, 0.7 * 989e12, 4.8e12, 7e-4, memory=141e9, source=SHEET),
    "rtx-4090": Machine("rtx-4090", 0.7 * 82.6e12, 0.7 * 165e12, 1.0e12, 8e-4, memory=24e9, source=SHEET),
    "l4": Machine("l4", 0.7 * 30.3e12, 0.7 * 121e12, 3.0e11, 1e-3, memory=24e9, source=SHEET),
}

# The share of a matrix product's speed that a whole model reaches, and the seconds before a stage of a kind is at work
# (imports and loading), from the quickstart on two AVX-512 cores.
PREFILL, TRAINING, DECODING = 0.7, 0.37, 0.7
CPU_LAYER_SECONDS = 8e-4
START_SECONDS = {"train": 6.0}
MODEL_START_SECONDS, OTHER_START_SECONDS = 3.0, 0.3
DISK_BYTES_A_SECOND = 1e9

# A CPU of no particular kind: good enough to tell long stages from short ones without a measurement.
NOMINAL = Machine("nominal", 1e11, 2e11, 1e10, CPU_LAYER_SECONDS)


def find_machine(name: str, threads: int) -> Machine:
    """A machine by name; `here` is this one, as it was measured once, at its best and not at what others leave.

    Args:
        name: `here`, or a GPU, or several of one kind: `8xh100-sxm`. A name may be cut where it stays plain: `8xh100`.

    Raises:
        ConfigError: no machine is known by that name.
    """
    if name == "here":
        return _measure(threads)
    several = re.fullmatch(r"([1-9]\d{0,4})x(.+)", name)
    gpus, kind = (int(several[1]), several[2]) if several else (1, name)
    fitting = [known for known in KNOWN if known == kind] or [known for known in KNOWN if known.split("-")[0] == kind]
    if len(fitting) != 1:
        known = ", ".join(["here", *KNOWN])
        raise ConfigError(
            f"--machine {name!r}: no such machine; there are {known}, and several of a GPU, such as 8xh100-sxm"
            f"{did_you_mean(kind, ['here', *KNOWN])}"
        )
    one = KNOWN[fitting[0]]
    return one if several is None else replace(one, name=f"{gpus}x{one.name}", gpus=gpus)


def seconds(function: str, work: Work, machine: Machine) -> float:
    """The first guess of how long a stage takes."""
    low = work.precision == "float32"
    rate = machine.float32 if low else machine.bfloat16
    flops = 2.0 * work.parameters
    passes = flops * work.prefill_tokens / (PREFILL * rate) + 3 * flops * work.trained_tokens / (TRAINING * rate)
    writing = 0.0
    if work.decode_steps:
        batch = work.generated_tokens / work.decode_steps
        weights = work.parameters * (4 if low else 2)
        step = max(flops * batch / (DECODING * rate), weights / machine.bandwidth)
        writing = work.decode_steps * (step + work.layers * machine.layer_seconds)
    disk = (work.disk_bytes + work.scratch_bytes) / DISK_BYTES_A_SECOND
    usual = MODEL_START_SECONDS if work.parameters else OTHER_START_SECONDS
    return START_SECONDS.get(function, usual) + passes + writing + disk


def corrections(store: Store, machine: Machine) -> dict[str, float]:
    """By function, the median of (measured seconds / first guess) over the stages that this machine has computed."""
    if not machine.this:
        return {}
    here = _what_computes(describe_machine(), machine.threads)
    ratios: dict[str, list[float]] = {}
    for key in store.finished():
        try:
            record = store.record(key)
            if record.get("work") is None or record["resumed"]:
                continue
            if _what_computes(record["machine"], record["machine"]["threads"]) != here:
                continue
            ratio = record["seconds"] / seconds(record["function"], read_work(record["work"]), machine)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
            continue  # damaged: the run says so
        ratios.setdefault(record["function"], []).append(ratio)
    return {function: statistics.median(found) for function, found in ratios.items()}


def read_work(document: Mapping[str, Any]) -> Work:
    """Work as a stage's record holds it."""
    return Work(**{field.name: document[field.name] for field in fields(Work) if field.name in document})


def _what_computes(machine: Mapping[str, Any], threads: int | None) -> tuple[Any, ...]:
    """Where a GPU computes, the CPU's threads do not matter."""
    has_gpu = machine.get("gpu", "none") != "none"
    if has_gpu:
        return (machine.get("gpu"),)
    # Records of radpo 0.1 call the CPU a processor.
    return (machine.get("cpu", machine.get("processor")), machine.get("cores"), threads)


def _measure(threads: int) -> Machine:
    """This machine: of a CPU, one thread's speed times their number, as if nobody else used it."""
    found = speeds()
    if gpus():
        return Machine(gpus()[0], found.float32, found.bfloat16, found.bandwidth, 8e-4, this=True)
    name = f"this machine, {threads} threads"
    rates = found.float32 * threads, found.bfloat16 * threads
    return Machine(name, *rates, found.bandwidth, CPU_LAYER_SECONDS, threads, this=True)
