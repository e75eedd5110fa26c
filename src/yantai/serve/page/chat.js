// Chat and plain continuation, as the words come.
import { stream } from "./api.js";
import { element, status } from "./app.js";
import { say } from "./words.js";
import { Work } from "./work.js";

const kept = {
  messages: [], draft: "", text: "",
  left: { model: "", count: 0 }, // how many of the oldest messages a model has no room for
  settings: { temperature: "0.8", top_p: "1", max_tokens: "", seed: "", repetition_penalty: "1", system: "" },
};
const talking = new Work(), writing = new Work();

function controls(isChat) {
  const field = (name, label, given) =>
    element("label", {}, label, element("input", {
      type: "number", value: kept.settings[name], inputmode: "decimal", ...given,
      oninput: (event) => { kept.settings[name] = event.target.value; },
    }));
  const system = element("textarea", {
    rows: "2", oninput: (event) => { kept.settings.system = event.target.value; },
  });
  system.value = kept.settings.system;
  return element("details", {}, element("summary", {}, say("settings")),
    element("div", { class: "controls" },
      isChat ? element("label", { class: "wide" }, say("system"), system) : null,
      field("temperature", say("temperature"), { min: "0", max: "2", step: "0.1" }),
      field("top_p", say("topP"), { min: "0.05", max: "1", step: "0.05" }),
      field("repetition_penalty", say("penalty"), { min: "0.5", max: "2", step: "0.05" }),
      field("max_tokens", say("maxTokens"), { min: "1", step: "1", placeholder: isChat ? say("noLimit") : "100" }),
      field("seed", say("seed"), { step: "1", placeholder: say("newSeed") }),
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

// Streams into `put`; says how fast it went. `note`: a word that is said with it.
async function listen(work, path, body, put, signal, note) {
  const began = performance.now();
  const tell = (words) => work.tell(() => status([words(), ...(note ? [say(note)] : [])].join(" · ")));
  let first = 0, usage = null;
  tell(() => say("reading"));
  for await (const table of stream(path, { ...body, stream_options: { include_usage: true } }, signal)) {
    usage = table.usage ?? usage;
    const choice = table.choices[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    if (text && !first) { first = performance.now(); tell(() => say("writing")); }
    if (text) put(text);
  }
  if (!usage) return;
  const seconds = Math.max(0.001, (performance.now() - began) / 1000);
  const read = { prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details.cached_tokens };
  const done = {
    tokens: usage.completion_tokens, speed: (usage.completion_tokens / seconds).toFixed(0),
    first: (((first || performance.now()) - began) / 1000).toFixed(2),
  };
  tell(() => `${say("done", done)} · ${say("read", read)}`);
}

// Asks for the next message; of a talk longer than the model reads, the oldest exchanges stay away.
async function converse(model, history, put, signal) {
  const system = kept.settings.system.trim();
  let left = kept.left.model === model.id ? kept.left.count : 0;
  for (;;) {
    signal.throwIfAborted();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...history.slice(left)];
    const body = { model: model.id, messages, ...sampling() };
    try {
      await listen(talking, "/v1/chat/completions", body, put, signal, left ? "leftOut" : "");
      kept.left = { model: model.id, count: left };
      return;
    } catch (error) {
      left = history.findIndex((each, place) => place > left && each.role === "user");
      if (error.code !== "context_length_exceeded" || left < 0) throw error;
    }
  }
}

// The model's turn; where an error comes before any text, `undo` makes all as it was.
function reply(model, undo) {
  const history = [...kept.messages], message = { role: "assistant", content: "" };
  kept.messages.push(message);
  const put = (piece) => {
    message.content += piece;
    talking.view.grow(piece);
  };
  talking.begin((signal) => converse(model, history, put, signal), (error) => {
    if (message.content) return;
    if (error) undo();
    talking.view.draw();
  });
  talking.view.draw();
}

function submitted(model, content) {
  kept.draft = "";
  kept.messages.push({ role: "user", content });
  reply(model, () => {
    kept.messages.splice(-2);
    kept.draft = kept.draft.trim() ? `${content}\n${kept.draft}` : content;
  });
}

function regenerated(model) {
  const before = [...kept.messages];
  while (kept.messages.at(-1)?.role === "assistant") kept.messages.pop();
  reply(model, () => { kept.messages = before; });
}

function near(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

export function chat(main, model) {
  const talk = element("div", { class: "talk", role: "log", "aria-live": "polite" });
  const input = element("textarea", {
    "aria-label": say("write"), placeholder: say("write"), rows: "2", oninput: () => { kept.draft = input.value; },
  });
  const send = element("button", { class: "main", type: "submit" });
  const again = element("button", { type: "button" }, say("again"));
  const clear = element("button", { type: "button" }, say("clear"));
  let last = null;

  const bubble = (message) => {
    last = element("span", {}, message.content || (talking.busy ? "" : say("silent")));
    talk.append(element("div", { class: `said ${message.role}` },
      element("span", { class: "who" }, say(message.role === "user" ? "you" : "model_")), last));
  };
  const settle = () => {
    send.textContent = say(talking.busy ? "stop" : "send");
    again.disabled = !kept.messages.some((each) => each.role === "assistant");
    again.setAttribute("aria-disabled", String(talking.busy));
  };
  const draw = () => {
    talk.replaceChildren();
    if (!kept.messages.length) talk.append(element("p", { class: "empty" }, say("empty")));
    kept.messages.forEach(bubble);
    talk.scrollTop = talk.scrollHeight;
    if (input.value !== kept.draft) input.value = kept.draft;
    settle();
  };
  const grow = (piece) => {
    const follow = near(talk);
    last.append(piece);
    if (follow) talk.scrollTop = talk.scrollHeight;
  };
  const submit = (event) => {
    event.preventDefault();
    if (talking.busy) return event.type === "submit" && talking.stop();
    if (!input.value.trim()) return status(say("noText"), true);
    submitted(model, input.value.trim());
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape") talking.stop();
  });
  again.addEventListener("click", () => { if (!talking.busy) regenerated(model); });
  clear.addEventListener("click", () => {
    kept.messages = [];
    kept.left.count = 0;
    talking.drop();
    draw();
    input.focus();
  });
  main.append(talk, controls(true), element("form", { class: "write", onsubmit: submit }, input,
    element("div", { class: "buttons" }, send, again, clear)));
  draw();
  talking.shownBy({ root: talk, draw, grow, settle });
}

export function complete(main, model) {
  const input = element("textarea", { rows: "12", oninput: () => { kept.text = input.value; } });
  const send = element("button", { class: "main", type: "submit" });
  const settle = () => { send.textContent = say(writing.busy ? "stop" : "complete"); };
  const grow = () => {
    input.value = kept.text;
    input.scrollTop = input.scrollHeight;
  };
  const submit = (event) => {
    event.preventDefault();
    if (writing.busy) return writing.stop();
    const body = { model: model.id, prompt: kept.text, max_tokens: 100, ...sampling() };
    const put = (piece) => {
      kept.text += piece;
      writing.view.grow();
    };
    writing.begin((signal) => listen(writing, "/v1/completions", body, put, signal));
  };
  grow();
  main.append(element("form", { class: "job", onsubmit: submit },
    element("label", {}, say("text"), input), controls(false), send));
  writing.shownBy({ root: input, grow, settle });
}
