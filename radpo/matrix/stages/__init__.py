"""What the stages of a matrix run: each reads its inputs' folders, calls one room, and writes its own folder.

A stage's function is module-level, so that another process can find it, and is listed here under the name that keys,
plans and logs know it by. Raise its version when a change to it, or to what it calls, changes what it writes.
"""

from radpo.engine.graph import Function
from radpo.matrix.stages.analysis import ANALYSIS
from radpo.matrix.stages.scoring import SCORING
from radpo.matrix.stages.training import TRAINING

FUNCTIONS: dict[str, Function] = {**TRAINING, **SCORING, **ANALYSIS}
