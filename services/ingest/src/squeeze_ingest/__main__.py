"""`python -m squeeze_ingest`."""

from squeeze_ingest.app import Settings, build
from squeezecore.adapters.service import main

if __name__ == "__main__":
    main("ingest", Settings, build)
