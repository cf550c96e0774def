"""What people look at: `render` makes a report page from its values, `live` gives the dashboard's files; both grow in `web/`.

Nothing is computed here. Whoever has a `squeezecore.adapters.page.Page` gets one offline HTML file.
"""

from squeezeview.dashboard import live, live_built
from squeezeview.rendering import built, render

__all__ = ["built", "live", "live_built", "render"]
