// Chat and plain continuation, as the words come.
import { stream } from "./api.js";
import { element, status, told } from "./app.js";
import { say } from "./words.js";

const kept = { messages: [], text: "", settings: { temperature: "0.8", top_p: "1", max_tokens: "", seed: "", repetition_penalty: "1", system: "" } };

function controls(withSystem) {
  const field = (name, label, given) =>
    element("label", {}, label, element("input", {
      value: kept.settings[name], inputmode: "decimal", ...given,
      oninput: (event) => { kept.settings[name] = event.target.value; },
    }));
  const system = element("textarea", {
    rows: "2", oninput: (event) => { kept.settings.system = event.target.value; },
  });
  system.value = kept.settings.system;
  return element("details", {}, element("summary", {}, say("settings")),
    element("div", { class: "controls" },
      withSystem ? element("label", { class: "wide" }, say("system"), system) : null,
      field("temperature", say("temperature"), { type: "number", min: "0", max: "2", step: "0.1" }),
      field("top_p", say("topP"), { type: "number", min: "0.05", max: "1", step: "0.05" }),
      field("repetition_penalty", say("penalty"), { type: "number", min: "0.5", max: "2", step: "0.05" }),
      field("max_tokens", say("maxTokens"), { type: "number", min: "1", step: "1" }),
      field("seed", say("seed"), { type: "number", step: "1" }),
    ));
}

function sampling() {
  const chosen = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed", "repetition_penalty"]) {
    const value = kept.settings[name].trim();
    if (value !== "") chosen[name] = Number(value);
  }
  return chosen;
}

// Streams into `put`; says how fast it went.
async function listen(path, body, put, signal) {
  const began = performance.now();
  let first = 0, usage = null;
  status(say("reading"));
  for await (const table of stream(path, { ...body, stream_options: { include_usage: true } }, signal)) {
    usage = table.usage ?? usage;
    const choice = table.choices[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    if (text && !first) { first = performance.now(); status(say("working")); }
    if (text) put(text);
  }
  if (!usage) return;
  const seconds = Math.max(0.001, (performance.now() - began) / 1000);
  const read = say("read", { prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details.cached_tokens });
  const done = say("done", {
    tokens: usage.completion_tokens, speed: (usage.completion_tokens / seconds).toFixed(0),
    first: (((first || performance.now()) - began) / 1000).toFixed(2),
  });
  status(`${done} · ${read}`);
}

function near(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

export function chat(main, model) {
  const talk = element("div", { class: "talk", role: "log", "aria-live": "polite" });
  const input = element("textarea", { "aria-label": say("write"), placeholder: say("write"), rows: "2" });
  const send = element("button", { class: "main", type: "submit" }, say("send"));
  const again = element("button", { type: "button" }, say("again"));
  const clear = element("button", { type: "button" }, say("clear"));
  let running = null;

  const bubble = (message) => {
    const text = element("span", {}, message.content);
    talk.append(element("div", { class: `said ${message.role}` },
      element("span", { class: "who" }, say(message.role === "user" ? "you" : "model_")), text));
    return text;
  };
  const draw = () => {
    talk.replaceChildren();
    if (!kept.messages.length) talk.append(element("p", { class: "empty" }, say("empty")));
    kept.messages.forEach(bubble);
    talk.scrollTop = talk.scrollHeight;
    again.disabled = !kept.messages.some((each) => each.role === "assistant");
  };
  const reply = async () => {
    running = new AbortController();
    send.textContent = say("stop");
    const message = { role: "assistant", content: "" };
    const system = kept.settings.system.trim();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...kept.messages];
    const text = bubble(message);
    try {
      await listen("/v1/chat/completions", { model: model.id, messages, ...sampling() }, (piece) => {
        const follow = near(talk);
        message.content += piece;
        text.append(piece);
        if (follow) talk.scrollTop = talk.scrollHeight;
      }, running.signal);
    } catch (error) {
      told(error);
    }
    running = null;
    send.textContent = say("send");
    if (message.content) kept.messages.push(message);
    draw();
  };
  const submit = async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    const content = input.value.trim();
    if (!content) return;
    input.value = "";
    kept.messages.push({ role: "user", content });
    draw();
    await reply();
    input.focus();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape" && running) running.abort();
  });
  again.addEventListener("click", () => {
    if (running) return;
    while (kept.messages.length && kept.messages.at(-1).role === "assistant") kept.messages.pop();
    draw();
    if (kept.messages.length) reply();
  });
  clear.addEventListener("click", () => { running?.abort(); kept.messages = []; draw(); status(""); input.focus(); });
  main.append(talk, controls(true), element("form", { class: "write", onsubmit: submit }, input,
    element("div", { class: "buttons" }, send, again, clear)));
  draw();
  input.focus();
}

export function complete(main, model) {
  const input = element("textarea", { "aria-label": say("text"), rows: "12" });
  const send = element("button", { class: "main", type: "submit" }, say("complete"));
  let running = null;
  input.value = kept.text;
  input.addEventListener("input", () => { kept.text = input.value; });
  const submit = async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    running = new AbortController();
    send.textContent = say("stop");
    const body = { model: model.id, prompt: input.value, max_tokens: 100, ...sampling() };
    try {
      await listen("/v1/completions", body, (piece) => {
        input.value += piece;
        kept.text = input.value;
        input.scrollTop = input.scrollHeight;
      }, running.signal);
    } catch (error) {
      told(error);
    }
    running = null;
    send.textContent = say("complete");
  };
  main.append(element("form", { class: "job", onsubmit: submit },
    element("label", {}, say("text"), input), controls(false), send));
}
