"""Pruned models inside other evaluation tools, through the tools' own entry points."""
