import { playground } from "/assets/playground.js";
import { get, introduce, make, post, repeat, say, showState, visit, welcome } from "/assets/session.js";

const name = decodeURIComponent(location.pathname.split("/").pop());
const base = `/v1/endpoints/${encodeURIComponent(name)}`;
const $ = (id) => document.getElementById(id);
let log = { launch_id: null, offset: 0 };

document.title = `${name} · modelops`;
$("name").textContent = name;
playground(base);

const card = await visit(`${base}/card`).catch(() => null);
for (const part of document.querySelectorAll("[data-keyed]")) part.hidden = card !== null;
if (card) {
  welcome();
  repeat(3, async () => {
    const seen = await get(`${base}/card`);
    showState($("state"), { ...seen, condition: null });
    $("model").textContent = seen.served_model_name;
    say("");
  });
} else {
  await operate();
}
$("range").addEventListener("change", repeat(10, showMetrics));

/** What only somebody with a key sees and does. */
async function operate() {
  const me = await introduce().catch((error) => { say(error.message, true); return { role: "viewer" }; });
  $("actions").hidden = me.role === "viewer";
  const refresh = repeat(2, showStatus);
  $("actions").addEventListener("click", async (event) => {
    const verb = event.target.dataset.verb;
    if (!verb || (verb !== "start" && !confirm(`${verb} ${name}? Requests under way are cut off.`))) return;
    try { await post(`${base}/${verb}`); refresh(); } catch (error) { say(error.message, true); }
  });
  repeat(2, showLog);
}

async function showStatus() {
  const status = await get(base);
  showState($("state"), status);
  $("model").textContent = status.spec.served_model_name;
  say(status.message, status.state.endsWith("Failed") || status.state === "RuntimeError");
  for (const button of $("actions").children) button.disabled = !offered(button.dataset.verb, status);
  fill($("engine"), [["Engine", [status.spec.engine, status.engine_version].filter(Boolean).join(" ")],
    ["Since", new Date(status.since).toLocaleString()], ["Start took", status.start_seconds && `${status.start_seconds.toFixed(1)} s`],
    ["Restarts", status.restarts], ["Reason", status.reason]]);
  $("each").replaceChildren(...(status.replicas?.length > 1 ? status.replicas : []).map(replica));
  fill($("spec"), Object.entries(status.spec).map(([field, value]) => [field, shown(value)]));
}

function replica(one) {
  const state = make("span");
  showState(state, { ...one, desired: "Running" });
  const told = [one.devices?.length ? `on ${one.devices.join(", ")}` : "", one.restarts ? `${one.restarts} restarts` : "", one.message];
  return make("li", {}, `${one.index + 1} `, state, told.filter(Boolean).join(" · "));
}

function offered(verb, status) {
  const stopped = status.desired === "Stopped" || status.state === "Sleeping";
  return verb === "start" ? stopped || /Failed|RuntimeError/.test(status.state) : verb === "stop" ? status.desired === "Running" : !stopped;
}

async function showMetrics() {
  const m = await get(`${base}/metrics?since=${$("range").value}`);
  const ms = (value) => value === null ? null : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(2)} s`;
  const percent = (value) => value === null ? null : `${(100 * value).toFixed(2)} %`;
  const usd = (value) => value === null ? null : `$${value.toFixed(value < 1 ? 4 : 2)}`;
  tiles([["Requests", m.request_count.toLocaleString()], ["Latency, mean", ms(m.avg_latency_ms)],
    ["Latency, p50", ms(m.p50_latency_ms)], ["Latency, p95", ms(m.p95_latency_ms)], ["First token, p50", ms(m.p50_ttft_ms ?? m.avg_ttft_ms)],
    ["Error rate", percent(m.error_rate)], ["Client errors", m.client_error_count + m.throttled_count],
    ["Availability", percent(m.availability)], ["In flight", m.requests_running], ["Waiting", m.requests_waiting],
    ["Cost", usd(m.cost_usd)], ["Per million tokens", usd(m.cost_usd_per_million_tokens)]]);
  $("source").textContent = m.source === "engine"
    ? `Counted by the engine since ${new Date(m.counted_since).toLocaleString()}; the gateway saw no calls.`
    : m.source === "gateway" ? "Counted by the gateway." : "No calls in this time.";
  $("replicas").textContent = `${m.ready_replicas} of ${m.total_replicas} ready · ${m.replica_hours.toFixed(2)} replica hours in this time`;
}

async function showLog() {
  if (!$("follow").checked && log.launch_id) return;
  const after = log.launch_id ? `&launch_id=${encodeURIComponent(log.launch_id)}&offset=${log.offset}` : "";
  const chunk = await get(`${base}/logs?tail=300${after}`);
  const box = $("logs");
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 20;
  if (chunk.launch_id !== log.launch_id) box.textContent = chunk.text && `${chunk.text}\n`;
  else if (chunk.text) box.append(chunk.text);
  if (box.textContent.length > 400_000) box.textContent = box.textContent.slice(-200_000);
  if (chunk.launch_id === null) box.textContent = "Nothing was written yet.";
  log = chunk;
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function tiles(pairs) {
  $("metrics").replaceChildren(...pairs.map(([label, value]) =>
    make("div", {}, make("dt", {}, label), make("dd", {}, value === null ? make("span", { className: "nothing" }, "–", make("span", { className: "hidden" }, "nothing seen")) : String(value)))));
}

function fill(list, pairs) {
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  list.replaceChildren(...kept.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value instanceof Node ? value : String(value))]));
}

/** A field as people read it; null for what says nothing: empty, off, or an object of such. */
function shown(value) {
  const said = pruned(value);
  if (said === null || said === false) return null;
  if (Array.isArray(said) && said.every((item) => typeof item === "string")) return make("code", {}, said.join(" "));
  return typeof said === "object" ? make("code", {}, JSON.stringify(said)) : String(said);
}

function pruned(value) {
  if (Array.isArray(value)) return value.length ? value : null;
  if (value === null || typeof value !== "object") return value === "" ? null : value;
  const kept = Object.entries(value).map(([field, part]) => [field, pruned(part)]).filter(([, part]) => part !== null);
  return kept.length ? Object.fromEntries(kept) : null;
}
