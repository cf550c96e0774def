// One script and one style sheet, as `squeezeview.render` puts them into a page; run by `make web`.
import { readFileSync } from "node:fs";
import { build } from "esbuild";

const root = new URL(".", import.meta.url).pathname;

// Both licences ask that their whole text goes where the code goes.
const notices = ["uplot", "preact"].map(
  (name) => `${name}\n\n${readFileSync(`${root}node_modules/${name}/LICENSE`, "utf8").trim()}`,
);

await build({
  absWorkingDir: root,
  entryPoints: { report: "src/report/main.tsx" },
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
