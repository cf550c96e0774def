"""`make bench`: what the product costs, measured on the product itself; `python -m tests.bench --help`."""
