// What a model was taught: one text in, one answer out.
import { post } from "./api.js";
import { element, status } from "./app.js";
import { say } from "./words.js";
import { Work } from "./work.js";

const kept = {};

// Rows of a name, a share, and what is written of it.
const bars = (rows) =>
  element("div", { class: "bars" }, ...rows.map(([name, share, shown]) =>
    element("div", { class: "bar" }, element("span", {}, name),
      element("meter", { min: "0", max: "1", value: String(Math.max(0, share)), "aria-label": name }),
      element("span", {}, shown))));

const SHOWN = {
  classify: (result) => [bars(Object.entries(result.probabilities).sort((a, b) => b[1] - a[1])
    .map(([name, chance]) => [name, chance, `${(100 * chance).toFixed(1)} %`]))],
  tag: (spans, text) => {
    if (!spans.length) return [say("nothing")];
    const letters = Array.from(text), parts = [];
    let at = 0;
    for (const span of spans) {
      parts.push(letters.slice(at, span.start).join(""));
      parts.push(element("mark", {}, letters.slice(span.start, span.end).join(""), element("small", {}, span.label)));
      at = span.end;
    }
    return [...parts, letters.slice(at).join("")];
  },
  span: (answer, text) => {
    const letters = Array.from(text);
    const piece = element("mark", {}, letters.slice(answer.start, answer.end).join(""));
    const note = answer.score > 0 ? null : element("p", {}, say("noAnswer"));
    return [note, letters.slice(0, answer.start).join(""), piece, letters.slice(answer.end).join(""),
      element("p", {}, `${say("score")} ${answer.score.toFixed(2)}`)];
  },
  translate: (text) => [text],
  summarize: (text) => [text],
};

const angle = (one, other) => {
  const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other) || 1);
};

// A form that is sent, and what comes of it. `ask` gives the parts to show, or a word for what is missing.
function form(main, model, values, fields, ask) {
  const work = (values.work ??= new Work());
  const result = element("div", {
    class: "result", role: "region", "aria-live": "polite", "aria-label": say("result"),
  });
  const run = element("button", { class: "main", type: "submit" }, say("run"));
  const settle = () => {
    run.setAttribute("aria-disabled", String(work.busy));
    const shown = values.answer?.model === model.id ? values.answer.parts() : [];
    result.replaceChildren(...shown.filter((part) => part !== null));
  };
  const submit = (event) => {
    event.preventDefault();
    if (work.busy) return;
    const missing = fields.map((field) => field.missing()).find((each) => each);
    if (missing) return status(say(missing), true);
    work.begin(async () => {
      work.tell(() => status(say("working")));
      values.answer = { model: model.id, parts: await ask() };
      work.tell(() => status(""));
    }, (error) => error ?? work.view.root.scrollIntoView({ block: "nearest" }));
  };
  main.append(element("form", { class: "job", onsubmit: submit }, ...fields.map((field) => field.label), run), result);
  work.shownBy({ root: result, settle });
}

// A field of such a form, whose text is kept; `missing` says what it lacks.
function area(values, key, label, rows, lacks) {
  const input = element("textarea", { rows, oninput: () => { values[key] = input.value; } });
  input.value = values[key];
  const missing = () => {
    const word = lacks(values[key]);
    if (word) input.focus();
    return word;
  };
  return { label: element("label", {}, label, input), missing };
}

const lines = (text) => text.split("\n").map((line) => line.trim()).filter((line) => line);

// How near the first of several texts, one a line, is to each of the others.
export function compare(main, model) {
  const values = (kept.embed ??= { text: "" });
  const taught = model.task === "embed" || model.shape === "encoder";
  const field = area(values, "text", say("nearest"), "6", (text) => lines(text).length < 2 && "twoLines");
  form(main, model, values, [field], async () => {
    const texts = lines(values.text);
    const { data } = await post("/v1/embeddings", { model: model.id, input: texts });
    const [first, ...others] = data.map((row) => row.embedding);
    const rows = others.map((other, place) => [texts[place + 1], angle(first, other)]).sort((a, b) => b[1] - a[1]);
    return () => [bars(rows.map(([line, near]) => [line, near, near.toFixed(3)])),
      taught ? null : element("p", { class: "note" }, say("untaught"))];
  });
}

export function job(name) {
  return (main, model) => {
    const values = (kept[name] ??= { text: "", question: "" });
    const lacks = (word) => (given) => !given.trim() && word;
    const text = area(values, "text", say(name === "span" ? "passage" : "text"), "8", lacks("noText"));
    const question = area(values, "question", say("question"), "2", lacks("noQuestion"));
    form(main, model, values, name === "span" ? [question, text] : [text], async () => {
      const given = values.text, body = { model: model.id, input: given, truncate: true };
      if (name === "span") body.question = values.question;
      const [answer] = (await post(`/v1/${name === "span" ? "answer" : name}`, body)).data;
      return () => [answer.truncated ? element("p", {}, say("cut")) : null, ...SHOWN[name](answer.result, given)];
    });
  };
}
