import { Refused, make, post } from "/assets/session.js";

const $ = (id) => document.getElementById(id);

/** A conversation with the endpoint at `base`; it lives in this page only. */
export function playground(base) {
  const chat = $("chat");
  const opening = chat.firstElementChild;
  let turns = [];
  let running = null;

  $("ask").addEventListener("submit", (event) => { event.preventDefault(); if (!running) ask($("prompt").value); });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
  });
  $("halt").addEventListener("click", () => running?.abort());
  $("clear").addEventListener("click", () => { running?.abort(); turns = []; chat.replaceChildren(opening); $("speed").textContent = ""; });

  async function ask(text) {
    if (!turns.length) chat.replaceChildren();
    running = new AbortController();
    busy(true);
    $("prompt").value = "";
    turns.push({ role: "user", content: text });
    const answer = make("div", { className: "turn assistant", ariaBusy: "true" });
    chat.append(make("div", { className: "turn user" }, text), answer);
    chat.scrollTop = chat.scrollHeight;
    const watch = stopwatch();
    try {
      const reply = await patiently(() => { watch.begin(); return post(`${base}/chat`, body(), { signal: running.signal }); });
      for await (const event of events(reply.body)) {
        if (event.error) throw new Error(event.error.message);
        watch.saw(event);
        const atEnd = chat.scrollTop + chat.clientHeight >= chat.scrollHeight - 30;
        answer.append(event.choices?.[0]?.delta?.content ?? "");
        $("speed").textContent = watch.told();
        if (atEnd) chat.scrollTop = chat.scrollHeight;
      }
      $("speed").textContent = watch.told(true);
    } catch (error) {
      $("speed").textContent = "";
      if (error.name !== "AbortError") chat.append(make("div", { className: "turn error", role: "alert" },
        error instanceof Refused ? error.message : `The answer broke off: ${error.message}`));
    }
    answer.ariaBusy = "false";
    if (answer.textContent) turns.push({ role: "assistant", content: answer.textContent });
    else { answer.remove(); turns.pop(); }
    chat.scrollTop = chat.scrollHeight;
    running = null;
    busy(false);
    $("prompt").focus();
  }

  /** Ask again, as often as it takes, while the endpoint starts or wakes. */
  async function patiently(work) {
    for (;;) {
      try { return await work(); } catch (error) {
        if (error.status !== 503 || !error.retryAfter) throw error;
        const seconds = Math.min(error.retryAfter, 5);
        $("speed").textContent = `${error.message} Asking again every ${seconds} s.`;
        await pause(1000 * seconds, running.signal);
      }
    }
  }

  function body() {
    const system = $("system").value.trim();
    return {
      messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
      temperature: $("temperature").valueAsNumber,
      max_tokens: $("max_tokens").valueAsNumber,
      stop: $("stop").value.split("\n").filter(Boolean),
    };
  }

  function busy(yes) { $("send").hidden = yes; $("halt").hidden = !yes; }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("stopped", "AbortError")); }, { once: true });
  });
}

/** The events of a server-sent stream, parsed. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

/** Time to the first token, and tokens per second after it: the engine's count where it gives one, else its pieces. */
function stopwatch() {
  let begun = performance.now();
  let first = null, last = null, pieces = 0, counted = null;
  return {
    begin() { begun = performance.now(); },
    saw(event) {
      if (event.choices?.[0]?.delta?.content) { last = performance.now(); first ??= last; pieces += 1; }
      if (event.usage?.completion_tokens) counted = event.usage.completion_tokens;
    },
    told(done = false) {
      if (first === null) return done ? "No text came." : "";
      const tokens = counted ?? pieces;
      const rate = last > first && tokens > 1 ? `${(1000 * (tokens - 1) / (last - first)).toFixed(1)} tokens/s` : "one token";
      return `First token after ${Math.round(first - begun)} ms · ${rate} · ${tokens} tokens${counted === null ? " (counted as they came)" : ""}`;
    },
  };
}
