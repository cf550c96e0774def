"""`python -m squeeze_reporting`."""

from squeeze_reporting.app import Settings, build
from squeezecore.adapters.service import main

if __name__ == "__main__":
    main("reporting", Settings, build)
