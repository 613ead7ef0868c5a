"""How the benchmarks' own tools score answers: text in, verdicts and numbers out.

Each module knows one benchmark and the conventions of LLaVA's scripts, of lmms-eval and of
VLMEvalKit for it, under their names; where one of them has a bug, its docstring says so and the
number is left out. Plain Python on strings, so that a number can be checked by hand.
"""

from experiments.scoring.answer import Answer, Scores

__all__ = ["Answer", "Scores"]
