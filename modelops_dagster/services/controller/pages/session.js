// The key and the requests. The key lives in this tab's sessionStorage and travels in one header, nowhere else.

const KEY = "modelops-key";
let asking = null;

export const key = () => sessionStorage.getItem(KEY);

export class Refused extends Error {
  constructor(answer, body) {
    super(body?.error?.message ?? `The controller answered ${answer.status}.`);
    this.status = answer.status;
    this.retryAfter = Number(answer.headers.get("retry-after"));
  }
}

/** A request to the controller; asks for a key when it is told that one is needed. */
export async function request(path, options = {}) {
  for (;;) {
    const sent = key();
    const headers = { ...(sent ? { Authorization: `Bearer ${sent}` } : {}), ...options.headers };
    const answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    if (answer.status === 401) {
      await askForKey(sent !== null && sent === key());
    } else if (!answer.ok) {
      throw new Refused(answer, await answer.json().catch(() => null));
    } else {
      return answer;
    }
  }
}

export const get = async (path) => (await request(path)).json();

export const post = (path, body, options = {}) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}), ...options });

/** One dialog at a time, however many requests were refused. */
function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    sessionStorage.removeItem(KEY);
    const box = make("dialog", { ariaLabel: "Key needed" },
      make("form", { method: "dialog" },
        make("h2", {}, "A key of the controller"),
        make("p", wrong ? { className: "wrong", role: "alert" } : {}, wrong
          ? "That key is unknown or was revoked. Try another one."
          : "This needs a key. It stays in this tab until you close it."),
        make("label", { className: "hidden", htmlFor: "key" }, "Key"),
        make("input", { id: "key", type: "password", required: true, autocomplete: "off", spellcheck: false }),
        make("button", { className: "primary" }, "Use this key"),
        make("p", {}, "Make one with ", make("code", {}, "modelops access create --alias NAME"), "."),
      ));
    box.addEventListener("cancel", (event) => event.preventDefault());
    box.addEventListener("close", () => {
      sessionStorage.setItem(KEY, box.querySelector("input").value.trim());
      box.remove();
      asking = null;
      resolve();
    });
    document.body.append(box);
    box.showModal();
  });
  return asking;
}

/** What a visitor without a key is told at `path`; null where a key is needed, or one is there. */
export async function visit(path) {
  if (key() !== null) return null;
  const answer = await fetch(path, { credentials: "omit", cache: "no-store" });
  return answer.ok ? answer.json() : null;
}

/** The bar of somebody without a key, who may bring one. */
export function welcome() {
  document.getElementById("who").textContent = "visitor";
  const bring = document.getElementById("forget");
  bring.textContent = "Use a key";
  bring.hidden = false;
  bring.onclick = async () => { await askForKey(false); location.reload(); };
}

/** Who the key says we are, shown in the bar. */
export async function introduce() {
  const me = await get("/v1/whoami");
  document.getElementById("who").textContent = `${me.alias}, ${me.role}`;
  const forget = document.getElementById("forget");
  forget.hidden = false;
  forget.onclick = () => { sessionStorage.removeItem(KEY); location.reload(); };
  return me;
}

/** An element; text is always text and never markup. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role") element.setAttribute(name, value); else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function say(text, bad = false) {
  const notice = document.getElementById("notice");
  notice.textContent = text ?? "";
  notice.hidden = !text;
  notice.classList.toggle("bad", bad);
}

const TONES = { Running: "good", Building: "busy", Deploying: "busy", Startup: "busy",
  BuildingFailed: "bad", DeployFailed: "bad", RuntimeError: "bad" };

export function showState(element, status) {
  const stopping = status.desired === "Stopped" && status.state !== "Stopped" ? ", stopping" : "";
  element.className = `state ${status.condition ? "busy" : TONES[status.state] ?? ""}`;
  const text = `${status.state}${status.condition ? ` (${status.condition})` : ""}${stopping}`;
  if (element.textContent !== text) element.textContent = text;
}

/** Do `work` now and every `seconds` while the page is seen; a failure is said and tried again. */
export function repeat(seconds, work) {
  let timer = null;
  let queue = Promise.resolve();
  const step = async () => {
    clearTimeout(timer);
    if (!document.hidden) {
      try { await work(); } catch (error) { say(error instanceof Refused ? error.message : "The controller does not answer; trying again.", true); }
    }
    timer = setTimeout(run, 1000 * seconds);
  };
  const run = () => (queue = queue.then(step));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) run(); });
  run();
  return run;
}
