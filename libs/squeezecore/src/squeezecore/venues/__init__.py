"""One file per exchange; no IO. Only these modules know native symbols."""
