"""Trades to bars to rows: closes seconds, persists and publishes them."""
