"""The page itself. Everything that models wrote enters it as text, never as markup."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Label answers</title>
<style nonce="{nonce}">
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
  header { display: flex; gap: 1rem; align-items: center; }
  progress { flex: 1; }
  h2 { font-size: .85rem; letter-spacing: .05em; text-transform: uppercase; opacity: .7; margin: 1.2rem 0 .3rem; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 0; padding: .8rem;
        border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: .4rem; }
  .answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
  .choices { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.2rem 0; }
  button { font: inherit; padding: .5rem .9rem; }
  kbd { border: 1px solid; border-radius: .2rem; padding: 0 .3rem; font: .85em ui-monospace, monospace; }
  textarea { font: inherit; width: 100%; box-sizing: border-box; }
  #problem { color: #c0262d; font-weight: 600; }
</style>
</head>
<body>
<header><strong>Label answers</strong><progress id="progress" value="0" max="1"></progress>
<span id="count" aria-live="polite"></span></header>
<p id="problem" role="alert"></p>
<main id="task" hidden>
  <h2>What was asked</h2><pre id="question"></pre>
  <div id="wanted"><h2>What a good answer contains</h2><pre id="target"></pre></div>
  <h2 id="asks"></h2><ul id="criteria"></ul>
  <div class="answers" id="answers"></div>
  <div class="choices" id="choices" role="group" aria-label="Your judgement"></div>
  <textarea id="comment" rows="2" placeholder="Comment (optional; Tab to get here, Escape to leave)"></textarea>
</main>
<p id="done" hidden>Nothing is left to label. Thank you.</p>
<script nonce="{nonce}">
"use strict";
const key = new URLSearchParams(location.search).get("key") || "";
const by = id => document.getElementById(id);
const CHOICES = {
  answer: [["pass", "Good enough", "1"], ["fail", "Not good enough", "0"], ["unsure", "Cannot tell", "?"]],
  pair: [["left", "Left is better", "ArrowLeft"], ["right", "Right is better", "ArrowRight"], ["same", "Alike", "="],
         ["unsure", "Cannot tell", "?"]],
};
let task = null, previous = null, shown = 0, busy = false;

async function call(path, body) {
  const options = { headers: { "X-Label-Key": key, "Content-Type": "application/json" } };
  if (body) { options.method = "POST"; options.body = JSON.stringify(body); }
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}
function add(parent, tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}
function show(found, progress) {
  task = found; shown = performance.now();
  by("progress").max = Math.max(progress.total, 1); by("progress").value = progress.done;
  by("count").textContent = progress.done + " of " + progress.total;
  by("task").hidden = !task; by("done").hidden = !!task; by("problem").textContent = "";
  if (!task) return;
  by("question").textContent = task.question;
  by("wanted").hidden = !task.target; by("target").textContent = task.target;
  by("asks").textContent = task.asks;
  by("criteria").replaceChildren();
  for (const text of task.criteria) add(by("criteria"), "li", text);
  by("answers").replaceChildren();
  task.answers.forEach((text, i) => {
    const box = add(by("answers"), "section", "");
    add(box, "h2", task.kind === "pair" ? ["Left", "Right"][i] : "The answer");
    add(box, "pre", text);
  });
  by("choices").replaceChildren();
  for (const [said, text, press] of CHOICES[task.kind]) {
    const button = add(by("choices"), "button", text + " ");
    button.dataset.said = said;
    add(button, "kbd", {ArrowLeft: "\\u2190", ArrowRight: "\\u2192"}[press] || press);
    button.addEventListener("click", () => say(said));
  }
  if (previous) {
    const back = add(by("choices"), "button", "Back ");
    add(back, "kbd", "Backspace");
    back.addEventListener("click", goBack);
  }
  by("comment").value = ""; by("comment").blur(); window.scrollTo(0, 0);
}
async function say(said) {
  if (!task || busy) return;
  busy = true;
  try {
    const body = { task: task.id, said, seconds: (performance.now() - shown) / 1000, comment: by("comment").value };
    const next = await call("/api/labels", body);
    previous = task.id;
    show(next.task, next.progress);
  } catch (error) { by("problem").textContent = error.message; }
  busy = false;
}
async function goBack() {
  if (!previous || busy) return;
  busy = true;
  try {
    const found = await call("/api/tasks/" + previous);
    previous = null;
    show(found.task, found.progress);
  } catch (error) { by("problem").textContent = error.message; }
  busy = false;
}
document.addEventListener("keydown", event => {
  if (event.key === "Escape") { document.activeElement.blur(); return; }
  if (event.target === by("comment") || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !task) return;
  const chosen = CHOICES[task.kind].find(([, , press]) => press === event.key);
  if (chosen) { event.preventDefault(); say(chosen[0]); }
  if (event.key === "Backspace") { event.preventDefault(); goBack(); }
});
call("/api/next").then(found => show(found.task, found.progress))
  .catch(error => { by("problem").textContent = error.message; });
</script>
</body>
</html>
"""
