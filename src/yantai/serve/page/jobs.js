// What a model was taught: one text in, one answer out.
import { post } from "./api.js";
import { element, status, told } from "./app.js";
import { say } from "./words.js";

const kept = {};

const SHOWN = {
  classify: (result) =>
    Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]).map(([name, chance]) =>
      element("div", { class: "bar" }, element("span", {}, name),
        element("meter", { min: "0", max: "1", value: String(chance), "aria-label": name }),
        element("span", {}, `${(100 * chance).toFixed(1)} %`))),
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
        const body = { model: model.id, input: values.text };
        if (name === "span") body.question = values.question;
        const table = await post(`/v1/${path}`, body);
        result.replaceChildren(...SHOWN[name](table.data[0].result, values.text).filter((part) => part !== null));
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
