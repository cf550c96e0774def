"""`python -m squeeze_cvd`."""

from squeeze_cvd.app import Settings, build
from squeezecore.adapters.service import main

if __name__ == "__main__":
    main("cvd", Settings, build)
