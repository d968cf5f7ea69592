import { get, introduce, make, repeat, say, showState } from "/assets/session.js";

const table = document.getElementById("endpoints");

await introduce().catch((error) => say(error.message, true));
repeat(3, async () => {
  const { endpoints } = await get("/v1/endpoints");
  table.tBodies[0].replaceChildren(...endpoints.map(row));
  table.hidden = endpoints.length === 0;
  document.getElementById("empty").hidden = endpoints.length > 0;
  say("");
});

function row(status) {
  const state = make("span");
  showState(state, status);
  return make("tr", {},
    make("td", {}, make("a", { href: `/endpoints/${encodeURIComponent(status.spec.name)}` }, status.spec.name)),
    make("td", {}, state),
    make("td", {}, status.spec.served_model_name),
    make("td", {}, [status.spec.engine, status.engine_version].filter(Boolean).join(" ")),
    make("td", { className: "number" }, String(status.restarts)),
    make("td", {}, new Date(status.since).toLocaleString()));
}
