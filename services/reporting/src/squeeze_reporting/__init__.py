"""The HTTP API: what happened, what stands, and backtests by request."""
