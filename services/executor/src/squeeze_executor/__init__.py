"""Intents to fills: risk, the venue, the ledger, the kill switch."""
