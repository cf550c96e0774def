// A form's fields out of the parameter model's JSON schema: names, meanings, defaults, limits.

export interface Field {
  name: string;
  label: string;
  help: string;
  unit: string;
  kind: "number" | "integer" | "boolean" | "text";
  initial: string | number | boolean | null;
  least: number | null;
  leastExcluded: boolean;
  most: number | null;
  mostExcluded: boolean;
}

export interface Form {
  main: Field[]; // of the spec itself: numbers and texts beside assets and days
  groups: { name: "params" | "costs" | "limits"; title: string; fields: Field[] }[];
  assetsMost: number;
}

type Node = Record<string, unknown>;
const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && !Array.isArray(value);

/** Follow references within a document, through what may also be null. */
function follow(document: Node, node: unknown): Node {
  let at = isNode(node) ? node : {};
  for (let hops = 0; hops < 8; hops++) {
    if (typeof at.$ref === "string") {
      const found = at.$ref
        .replace(/^#\//, "")
        .split("/")
        .reduce<unknown>((inner, part) => (isNode(inner) ? inner[part] : undefined), document);
      if (!isNode(found)) return at;
      at = { ...found, ...Object.fromEntries(Object.entries(at).filter(([key]) => key !== "$ref")) };
    } else {
      const choices = at.anyOf ?? at.allOf ?? at.oneOf;
      const choice = Array.isArray(choices) ? (choices as unknown[]).find((one) => isNode(one) && one.type !== "null") : undefined;
      if (!isNode(choice)) return at;
      at = { ...choice, ...Object.fromEntries(Object.entries(at).filter(([key]) => !["anyOf", "allOf", "oneOf"].includes(key))) };
    }
  }
  return at;
}

const propertiesOf = (node: Node): Node => (isNode(node.properties) ? node.properties : {});

/** Find the object whose properties hold all of some names. */
function find(node: unknown, names: string[]): Node | null {
  if (!isNode(node)) return null;
  const held = propertiesOf(node);
  if (names.every((name) => name in held)) return node;
  for (const inner of Object.values(node)) {
    const found = find(inner, names);
    if (found) return found;
  }
  return null;
}

function fieldOf(document: Node, name: string, said: unknown): Field | null {
  const node = follow(document, said);
  const kind = node.type === "number" || node.type === "integer" || node.type === "boolean" ? node.type : node.type === "string" ? "text" : null;
  if (kind === null) return null;
  const bound = (key: string): number | null => (typeof node[key] === "number" ? node[key] : null);
  const low = bound("minimum");
  const high = bound("maximum");
  const initial = node.default;
  return {
    name,
    label: typeof node.title === "string" ? node.title : name.replaceAll("_", " "),
    help: typeof node.description === "string" ? node.description : "",
    unit: typeof node.unit === "string" ? node.unit : "",
    kind,
    initial: typeof initial === "number" || typeof initial === "boolean" || typeof initial === "string" ? initial : null,
    least: low ?? bound("exclusiveMinimum"),
    leastExcluded: low === null && bound("exclusiveMinimum") !== null,
    most: high ?? bound("maximum") ?? bound("exclusiveMaximum"),
    mostExcluded: high === null && bound("exclusiveMaximum") !== null,
  };
}

function fieldsOf(document: Node, node: Node | null): Field[] {
  return Object.entries(node ? propertiesOf(node) : {}).flatMap(([name, said]) => fieldOf(document, name, said) ?? []);
}

export function formOf(schema: unknown): Form {
  const document = isNode(schema) ? schema : {};
  const spec = find(document, ["assets", "start", "end"]);
  const inSpec = (name: string): Node | null => {
    const node = spec ? follow(document, propertiesOf(spec)[name]) : {};
    return isNode(node.properties) ? node : null;
  };
  const groups: Form["groups"] = [
    { name: "params", title: "Strategy", fields: fieldsOf(document, inSpec("params") ?? find(document, ["entry_score"])) },
    { name: "costs", title: "Costs", fields: fieldsOf(document, inSpec("costs") ?? find(document, ["taker_fee_ppm"])) },
    { name: "limits", title: "Limits", fields: fieldsOf(document, inSpec("limits") ?? find(document, ["leverage_max"])) },
  ];
  if (groups.every((group) => group.fields.length === 0)) throw new Error("the parameter model was not understood");
  const most = spec ? follow(document, propertiesOf(spec).assets).maxItems : undefined;
  return {
    main: fieldsOf(document, spec).filter((field) => field.name === "capital_usd" || field.name === "warmup_s"),
    groups,
    assetsMost: typeof most === "number" ? most : 1_000,
  };
}

/** Say what is wrong with a field's text; empty where nothing is. */
export function wrong(field: Field, text: string): string {
  if (field.kind === "boolean" || field.kind === "text") return "";
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) return "a number is needed";
  if (field.kind === "integer" && !Number.isInteger(value)) return "a whole number is needed";
  if (field.least !== null && (field.leastExcluded ? value <= field.least : value < field.least)) return `the limit is ${limits(field)}`;
  if (field.most !== null && (field.mostExcluded ? value >= field.most : value > field.most)) return `the limit is ${limits(field)}`;
  return "";
}

export function limits(field: Field): string {
  const low = field.least === null ? "" : `${field.leastExcluded ? ">" : "≥"} ${field.least.toLocaleString("en-US")}`;
  const high = field.most === null ? "" : `${field.mostExcluded ? "<" : "≤"} ${field.most.toLocaleString("en-US")}`;
  return [low, high].filter(Boolean).join(", ");
}
