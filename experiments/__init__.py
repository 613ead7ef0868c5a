"""Entry points: one benchmark or study per file, run as ``python -m experiments.<name>``."""
