"""The regression gate: two run directories come in; pass, regression, or why there is no verdict, goes out."""

from radpo.regress.compare import compare
from radpo.regress.verdict import NotGated, Row, Verdict

__all__ = ["NotGated", "Row", "Verdict", "compare"]
