// The page: tabs for what the chosen model can do. Text of models is only ever text, never HTML.
import { Refused, get, useKey } from "./api.js";
import { card, curves } from "./about.js";
import { chat, complete } from "./chat.js";
import { compare, job } from "./jobs.js";
import { language, say, turn } from "./words.js";

const TABS = {
  chat, complete, translate: job("translate"), summarize: job("summarize"), classify: job("classify"),
  tag: job("tag"), span: job("span"), embed: compare, card, curves,
};
const state = { models: [], model: null, tab: "" };
const by = (id) => document.getElementById(id);

export function status(text, bad = false) {
  const line = by("status");
  line.textContent = text;
  line.classList.toggle("bad", bad);
}

// element("p", {class: "x", onclick: f}, "text", child)
export function element(name, given = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function told(error) {
  if (error.name === "AbortError") return status(say("stopped"));
  if (error instanceof Refused && error.status === 401) by("key").click();
  return status(say("failed", { message: error.message }), true);
}

function words() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-say]")) each.textContent = say(each.dataset.say);
  by("tabs").setAttribute("aria-label", say("tabs"));
  by("language").textContent = say("other");
  by("language").lang = language === "zh" ? "en" : "zh-CN";
}

function tabs() {
  const taught = (name) => name !== "embed" || state.model.task === "embed" || state.model.shape === "encoder";
  const can = [...state.model.can.filter((name) => name in TABS && taught(name)), "card", "curves"];
  const order = Object.keys(TABS).filter((name) => can.includes(name));
  if (!order.includes(state.tab)) state.tab = order[0];
  by("tabs").replaceChildren(
    ...order.map((name) =>
      element("button", {
        type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(name === state.tab),
        "aria-controls": "main", tabindex: name === state.tab ? "0" : "-1",
        onclick: () => choose(name),
        onkeydown: (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!step) return;
          choose(order[(order.indexOf(name) + step + order.length) % order.length]);
          by(`tab-${state.tab}`).focus();
        },
      }, say(name)),
    ),
  );
  by("main").setAttribute("role", "tabpanel");
  by("main").setAttribute("aria-labelledby", `tab-${state.tab}`);
}

function choose(name) {
  state.tab = name;
  show();
}

function show() {
  words();
  if (!state.model) return;
  tabs();
  status("");
  by("main").replaceChildren();
  TABS[state.tab](by("main"), state.model);
}

async function begin() {
  words();
  try {
    state.models = (await get("/v1/models")).data;
    by("key").hidden = true;
  } catch (error) {
    by("key").hidden = false;
    return told(error);
  }
  by("model").replaceChildren(...state.models.map((each) => element("option", { value: each.id }, each.id)));
  state.model = state.models[0];
  show();
}

by("language").addEventListener("click", () => { turn(); show(); });
by("model").addEventListener("change", (event) => {
  state.model = state.models.find((each) => each.id === event.target.value);
  show();
});
by("key").addEventListener("click", () => { if (!by("ask-key").open) by("ask-key").showModal(); });
by("ask-key").addEventListener("close", () => {
  if (by("ask-key").returnValue !== "ok") return;
  useKey(by("key-text").value.trim());
  by("key-text").value = "";
  begin();
});
begin();
