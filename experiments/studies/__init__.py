"""Studies: grids of settings over benchmarks, and what runs them."""
