"""What a test asks of an open report page: what its charts hold, where they stand, and which pixels they drew."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

CHARTS = ("price", "cvd", "open_interest", "score", "equity", "drawdown")
# A copy of a chart's pixels, made on a canvas of our own: the chart's stays where it is drawn fast.
PIXELS = """const pixelsOf = (id) => {
  const chart = document.querySelector(`#chart-${id} canvas`);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [chart.width, chart.height];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(chart, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height).data;
};"""
# How many of a canvas's pixels differ from its most frequent colour.
INK = """id => {
  PIXELS
  const counts = new Map();
  const pixels = new Uint32Array(pixelsOf(id).buffer);
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  return pixels.length - Math.max(...counts.values());
}""".replace("PIXELS", PIXELS)
# Whether a canvas shows a colour of the theme, within what smoothing leaves of it.
SHOWS = """([id, name]) => {
  PIXELS
  const data = pixelsOf(id);
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  let found = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] > 200 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 30) found++;
  return found;
}""".replace("PIXELS", PIXELS)


def charts(page: Page) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in page.evaluate("squeezeflow.charts()")}


def settle(page: Page) -> None:
    """Let two frames pass: what was asked for is drawn then."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def near(page: Page, from_s: float, to_s: float) -> None:
    """Zoom and wait until the seconds are unpacked."""
    page.evaluate("([from, to]) => squeezeflow.zoom(from, to)", [from_s, to_s])
    page.evaluate(
        """async () => {
          const frame = () => new Promise(requestAnimationFrame);
          for (let n = 0; n < 300; n++) {
            await frame();
            if (squeezeflow.charts().find((chart) => chart.id === "price").finest === 1) break;
          }
          await frame();
        }"""
    )
