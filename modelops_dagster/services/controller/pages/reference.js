// The OpenAPI document as a page, with nothing from anywhere else.

import { make, say } from "/assets/session.js";

const answer = await fetch("/openapi.json").catch(() => null);
if (answer?.ok) show(await answer.json()); else say("The description of the API could not be read; load the page again.", true);

function show(api) {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "controller";
      byTag.set(tag, [...(byTag.get(tag) ?? []), entry(method, path, operation, api)]);
    }
  }
  document.getElementById("operations").replaceChildren(...[...byTag].map(([tag, entries]) =>
    make("section", { className: "card" }, make("h2", {}, tag[0].toUpperCase() + tag.slice(1)), ...entries)));
  document.getElementById("schemas").replaceChildren(...Object.entries(api.components.schemas).map(([name, schema]) =>
    make("details", { className: "operation", id: `schema-${name}` }, make("summary", {}, make("code", {}, name)),
      ...(schema.description ? [make("p", { className: "note" }, schema.description)] : []), fields(schema))));
  const open = () => { const found = document.getElementById(location.hash.slice(1)); if (found) { found.open = true; found.scrollIntoView(); } };
  addEventListener("hashchange", open);
  open();
}

function entry(method, path, operation, api) {
  const role = operation["x-required-role"];
  const who = operation["x-open-to-visitors"] ? `${role}, or a visitor of a public endpoint` : role ?? "no key";
  const body = operation.requestBody?.content?.["application/json"];
  const examples = [...Object.values(body?.examples ?? {}).map((example) => [example.summary, example.value]),
    ...(named(body?.schema, api)?.examples ?? []).map((value) => ["for example", value])];
  const result = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  const returned = result?.[1].content?.["application/json"]?.schema;
  return make("details", { className: "operation" },
    make("summary", {}, make("span", { className: `method ${method}` }, method.toUpperCase()), " ", make("code", {}, path),
      make("span", { className: "about" }, operation.summary ?? ""), make("span", { className: "role" }, who)),
    ...(operation.description ? [make("p", {}, operation.description)] : []),
    ...(operation.parameters?.length ? [make("h3", {}, "Parameters"), table(operation.parameters.map((p) =>
      [p.name, kind(p.schema), [p.in === "path" ? "in the path" : p.required ? "required" : "", p.description ?? p.schema.description].filter(Boolean).join("; ")]))] : []),
    ...(body ? [make("h3", {}, "Body"), make("p", {}, kind(body.schema))] : []),
    ...examples.flatMap(([told, value]) => [make("p", { className: "note" }, told), make("pre", { tabIndex: 0 }, JSON.stringify(value, null, 2))]),
    ...(result ? [make("h3", {}, "Answer"), make("p", {}, `${result[0]} `, returned ? kind(returned) : "")] : []));
}

function named(schema, api) { return schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema; }

function fields(schema) {
  const required = new Set(schema.required ?? []);
  return table(Object.entries(schema.properties ?? {}).map(([name, part]) =>
    [name, kind(part), [required.has(name) ? "required" : "", part.description].filter(Boolean).join("; ")]));
}

function table(rows) {
  return make("div", { className: "wide-table" }, make("table", {}, make("tbody", {}, ...rows.map(([name, type, told]) =>
    make("tr", {}, make("th", { scope: "row" }, make("code", {}, name)), make("td", {}, type), make("td", {}, told))))));
}

/** What a schema takes, in a few words; another document as a link to it. */
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return make("a", { href: `#schema-${name}` }, name);
  }
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return joined(options.map(kind), " or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return joined(["list of ", kind(schema.items) || "anything"], "");
  if (schema.type === "object" && schema.additionalProperties?.type) return joined(["map to ", kind(schema.additionalProperties)], "");
  const least = schema.minimum ?? schema.exclusiveMinimum, most = schema.maximum ?? schema.exclusiveMaximum;
  const bounds = [least !== undefined ? `${schema.minimum !== undefined ? "from" : "above"} ${least}` : "", most !== undefined ? `up to ${most}` : ""];
  return [schema.type ?? "anything", ...bounds].filter(Boolean).join(" ");
}

function joined(parts, between) {
  const whole = document.createElement("span");
  parts.forEach((part, index) => whole.append(...(index && between ? [between, part] : [part])));
  return whole;
}
