"""`python -m squeeze_strategy`."""

from squeeze_strategy.app import Settings, build
from squeezecore.adapters.service import main

if __name__ == "__main__":
    main("strategy", Settings, build)
