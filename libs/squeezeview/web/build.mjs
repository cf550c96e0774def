// One script and one style sheet, as `squeezeview.render` puts them into a page; run by `make web`.
import { build } from "esbuild";

const root = new URL(".", import.meta.url).pathname;

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
  charset: "utf8",
  logLevel: "warning",
});
