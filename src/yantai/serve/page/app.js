// The page: tabs for what the chosen model can do. Text of models is only ever text, never HTML.
import { get, hasKey, useKey } from "./api.js";
import { card, curves } from "./about.js";
import { chat, complete } from "./chat.js";
import { compare, job } from "./jobs.js";
import { language, reason, say, turn } from "./words.js";

const TABS = {
  chat, complete, translate: job("translate"), summarize: job("summarize"), classify: job("classify"),
  tag: job("tag"), span: job("span"), embed: compare, card, curves,
};
const state = { models: [], model: null, tab: "", error: null };
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
  if (error.status === 401) askKey(say("error_invalid_api_key"));
  status(reason(error), error.name !== "AbortError");
}

function askKey(note = "") {
  by("key").hidden = !state.model; // else the page itself offers it
  by("key-note").textContent = note;
  if (!by("ask-key").open) by("ask-key").showModal();
}

function words() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-say]")) each.textContent = say(each.dataset.say);
  by("tabs").setAttribute("aria-label", say("tabs"));
  by("language").textContent = say("other");
  by("language").lang = language === "zh" ? "en" : "zh-CN";
}

function tabs() {
  const can = [...state.model.can, "card", "curves"], order = Object.keys(TABS).filter((name) => can.includes(name));
  if (!order.includes(state.tab)) state.tab = order[0];
  by("tabs").replaceChildren(
    ...order.map((name) =>
      element("button", {
        type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(name === state.tab),
        "aria-controls": "main", tabindex: name === state.tab ? "0" : "-1",
        onclick: () => choose(name),
        onkeydown: (event) => {
          const here = order.indexOf(name);
          const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: -1 }[event.key];
          if (next === undefined) return;
          event.preventDefault();
          choose(order.at(next % order.length));
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
  by(`tab-${name}`).focus();
}

function show() {
  words();
  status("");
  by("main").replaceChildren();
  by("pick").hidden = by("tabs").hidden = !state.model;
  if (!state.model) return state.error && closed(state.error);
  tabs();
  TABS[state.tab](by("main"), state.model);
  by(`tab-${state.tab}`).scrollIntoView({ block: "nearest", inline: "nearest" });
}

// Instead of a tab, while no model is known.
function closed(error) {
  const locked = error.status === 401;
  by("main").append(element("div", { class: "empty" },
    element("p", {}, locked ? say("needKey") : reason(error)),
    element("button", { class: "main", type: "button", onclick: () => (locked ? askKey() : begin()) },
      say(locked ? "giveKey" : "retry"))));
}

async function begin() {
  words();
  try {
    state.models = (await get("/v1/models")).data;
    by("key").hidden = true;
  } catch (error) {
    state.error = error;
    if (!state.model) show();
    if (error.status === 401 && !hasKey()) return askKey();
    return told(error);
  }
  by("model").replaceChildren(...state.models.map((each) => element("option", { value: each.id }, each.id)));
  state.model = state.models.find((each) => each.id === state.model?.id) ?? state.models[0];
  by("model").value = state.model.id;
  show();
  if (document.activeElement === document.body) by("main").querySelector("form textarea")?.focus();
}

by("language").addEventListener("click", () => { turn(); show(); });
by("model").addEventListener("change", (event) => {
  state.model = state.models.find((each) => each.id === event.target.value);
  show();
});
by("key").addEventListener("click", () => askKey());
by("ask-key").addEventListener("close", () => {
  if (by("ask-key").returnValue !== "ok") return;
  const key = by("key-text").value.trim();
  by("key-text").value = "";
  if (!/^[!-~]+$/.test(key)) return askKey(say("oddKey")); // a header holds nothing else
  useKey(key);
  begin();
});
begin();
