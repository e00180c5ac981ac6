"""The regression gate: two run directories come in; pass, regression, or why there is no verdict, goes out."""

from radpo.gate.compare import compare
from radpo.gate.verdict import NotGated, Row, Verdict

__all__ = ["NotGated", "Row", "Verdict", "compare"]
