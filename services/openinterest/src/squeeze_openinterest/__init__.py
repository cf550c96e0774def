"""Open interest and funding: polled per venue, normalised, published with when they could be known."""
