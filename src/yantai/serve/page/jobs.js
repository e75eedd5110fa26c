// What a model was taught: one text in, one answer out.
import { post } from "./api.js";
import { element, status, told } from "./app.js";
import { say } from "./words.js";

const kept = {};

const bar = (name, share, shown) =>
  element("div", { class: "bar" }, element("span", {}, name),
    element("meter", { min: "0", max: "1", value: String(share), "aria-label": name }),
    element("span", {}, shown));

const SHOWN = {
  classify: (result) =>
    Object.entries(result.probabilities).sort((a, b) => b[1] - a[1])
      .map(([name, chance]) => bar(name, chance, `${(100 * chance).toFixed(1)} %`)),
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

// How near the first of several texts, one a line, is to each of the others.
export function compare(main, model) {
  const values = (kept.embed ??= { text: "" });
  const input = element("textarea", { rows: "10", oninput: () => { values.text = input.value; } });
  input.value = values.text;
  const result = element("div", { class: "result", role: "region", "aria-live": "polite", hidden: true });
  const run = element("button", { class: "main", type: "submit" }, say("run"));
  const submit = async (event) => {
    event.preventDefault();
    const lines = values.text.split("\n").map((line) => line.trim()).filter((line) => line);
    if (lines.length < 2) return status(say("twoLines"), true);
    run.disabled = true;
    status(say("working"));
    try {
      const { data } = await post("/v1/embeddings", { model: model.id, input: lines });
      const [first, ...others] = data.map((row) => row.embedding);
      const rows = others.map((other, place) => [lines[place + 1], angle(first, other)]).sort((a, b) => b[1] - a[1]);
      result.replaceChildren(...rows.map(([line, near]) => bar(line, Math.max(0, near), near.toFixed(3))));
      result.hidden = false;
      status("");
    } catch (error) {
      told(error);
    }
    run.disabled = false;
  };
  main.append(element("form", { class: "job", onsubmit: submit },
    element("label", {}, say("nearest"), input), run), result);
}

export function job(name) {
  return (main, model) => {
    const values = (kept[name] ??= { text: "", question: "" });
    const area = (key, label, rows) => {
      const input = element("textarea", { rows, oninput: (event) => { values[key] = event.target.value; } });
      input.value = values[key];
      return element("label", {}, label, input);
    };
    const result = element("div", { class: "result", role: "region", "aria-live": "polite", hidden: true });
    const run = element("button", { class: "main", type: "submit" }, say("run"));
    const submit = async (event) => {
      event.preventDefault();
      if (!values.text.trim()) return;
      run.disabled = true;
      status(say("working"));
      try {
        const path = name === "span" ? "answer" : name;
        const body = { model: model.id, input: values.text, truncate: true };
        if (name === "span") body.question = values.question;
        const [answer] = (await post(`/v1/${path}`, body)).data;
        const note = answer.truncated ? element("p", {}, say("cut")) : null;
        result.replaceChildren(...[note, ...SHOWN[name](answer.result, values.text)].filter((part) => part !== null));
        result.hidden = false;
        status("");
      } catch (error) {
        told(error);
      }
      run.disabled = false;
    };
    main.append(element("form", { class: "job", onsubmit: submit },
      name === "span" ? area("question", say("question"), "2") : null,
      area("text", say(name === "span" ? "context" : "text"), "10"), run), result);
  };
}
