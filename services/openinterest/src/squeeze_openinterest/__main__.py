"""`python -m squeeze_openinterest`."""

from squeeze_openinterest.app import Settings, build
from squeezecore.adapters.service import main

if __name__ == "__main__":
    main("openinterest", Settings, build)
