import js from "@eslint/js";
import typescript from "typescript-eslint";

export default typescript.config(
  js.configs.recommended,
  {
    files: ["src/**/*.ts", "src/**/*.tsx"],
    extends: [...typescript.configs.strictTypeChecked, ...typescript.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // numbers stand in our sentences as they are
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // components talk to the page through values, never through a network
      "no-restricted-globals": ["error", "fetch", "XMLHttpRequest", "WebSocket", "EventSource", "localStorage"],
      "no-restricted-imports": ["error", { patterns: [{ group: ["**/report/*", "**/live/*"], message: "components know no page" }] }],
      "@typescript-eslint/no-non-null-assertion": "off", // typed arrays and charts are indexed by bounds we have checked
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      eqeqeq: "error",
    },
  },
  {
    files: ["src/report/**", "src/live/**"],
    rules: { "no-restricted-imports": "off" },
  },
  {
    // the dashboard lives of a network: its own server's
    files: ["src/live/api.ts", "src/live/stream.ts"],
    rules: { "no-restricted-globals": "off" },
  },
  {
    files: ["*.mjs"],
    languageOptions: { globals: { console: "readonly", process: "readonly", URL: "readonly" } },
  },
);
