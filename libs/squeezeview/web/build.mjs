// One script and one style sheet for each page: `squeezeview.render` puts the report's into a file, `squeezeview.live` gives
// out the dashboard's beside its shell; run by `make web`.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const root = new URL(".", import.meta.url).pathname;
const assets = `${root}../src/squeezeview/assets/`;

// Both licences ask that their whole text goes where the code goes.
const notices = ["uplot", "preact"].map(
  (name) => `${name}\n\n${readFileSync(`${root}node_modules/${name}/LICENSE`, "utf8").trim()}`,
);

await build({
  absWorkingDir: root,
  entryPoints: { report: "src/report/main.tsx", live: "src/live/main.tsx" },
  outdir: "../src/squeezeview/assets",
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome111", "firefox113", "safari16.4"], // the first with DecompressionStream and CSS color-mix
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "inline",
  banner: { js: `/*! This file contains:\n\n${notices.join("\n\n")}\n*/` },
  charset: "utf8",
  logLevel: "warning",
});

// The shell names its files with the beginning of their hashes, so a browser that kept an old one asks for the new.
const named = (text, name) => {
  const hash = createHash("sha256").update(readFileSync(`${assets}${name}`)).digest("hex").slice(0, 12);
  return text.replace(`assets/${name}`, `assets/${name}?${hash}`);
};
writeFileSync(`${assets}live.html`, ["live.css", "live.js"].reduce(named, readFileSync(`${root}src/live/live.html`, "utf8")));
