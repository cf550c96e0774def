"""The command people type, and the few functions a notebook wants."""
