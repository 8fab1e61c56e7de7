"""One module for each group of claims that share their data; `benchmarks/claims.py` runs them."""
