"""The registry of benchmarks: radpo's own, and those of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Cost
from radpo.benchmarks.sources import plugin_source
from radpo.core.plugins import load_plugins, warn_once
from radpo.engine.graph import Function
from radpo.engine.sources import Source

GROUP = "radpo.benchmarks"


@cache
def benchmarks() -> Mapping[str, Benchmark]:
    """All benchmarks by name, in the order in which they are listed.

    One of another package that cannot be used is left out with a warning: it is broken, or called otherwise than its
    entry point, or has a stage function whose name is taken.
    """
    found, taken = {}, dict.fromkeys(pieces.FUNCTIONS, "radpo")
    for name, benchmark in load_plugins(GROUP, Benchmark).items():
        twice = [function for function in benchmark.functions if function in taken]
        if benchmark.name != name:
            warn_once(f"{GROUP} {name!r} is ignored: its benchmark is called {benchmark.name!r}; give both one name")
        elif twice:
            warn_once(f"{GROUP} {name!r} is ignored: {taken[twice[0]]} has a stage function {twice[0]!r} already")
        else:
            found[name] = benchmark
            taken |= dict.fromkeys(benchmark.functions, name)
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


@cache
def stage_functions() -> Mapping[str, Function]:
    """What the stages of all benchmarks run, by name: the common pieces' and their own."""
    own = {name: function for benchmark in benchmarks().values() for name, function in benchmark.functions.items()}
    return {**pieces.FUNCTIONS, **own}


def function_codes() -> Mapping[str, Source]:
    """The code of the functions that other packages bring, by function."""
    codes = {name: plugin_source(GROUP, name) for name in benchmarks()}
    return {
        function: code
        for name, benchmark in benchmarks().items()
        if (code := codes[name]) is not None
        for function in benchmark.functions
    }


@cache
def stage_costs() -> Mapping[str, Cost]:
    """How the work of a stage is counted, by function."""
    found = dict(pieces.COSTS)
    for benchmark in benchmarks().values():
        found |= benchmark.cost
    return found
