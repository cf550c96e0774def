"""`python -m squeeze_executor`."""

from squeeze_executor.app import Settings, build
from squeezecore.adapters.service import main

if __name__ == "__main__":
    main("executor", Settings, build)
