"""Rows to signals and order intents, by the kernels that the backtest runs."""
