"""What people look at: `render` makes a report page from its values; the charts and tables live in `web/`.

Nothing is computed here. Whoever has a `squeezecore.adapters.page.Page` gets one offline HTML file.
"""

from squeezeview.rendering import built, render

__all__ = ["built", "render"]
