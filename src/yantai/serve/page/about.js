// What a model is, and the run that it came from.
import { get } from "./api.js";
import { element, told } from "./app.js";
import { language, say } from "./words.js";

const SHAPES = { decoder: "decoder", encoder: "encoder", "encoder-decoder": "both" };

function duration(seconds) {
  const hours = Math.floor(seconds / 3600), minutes = Math.floor((seconds % 3600) / 60);
  const parts = [[hours, "hours"], [minutes, "minutes"], [Math.round(seconds % 60), "seconds"]];
  return parts.filter(([count, unit]) => count || (unit === "seconds" && seconds < 60))
    .map(([count, unit]) => `${count} ${say(unit)}`).join(" ");
}

// What is known of a model, in the order in which a reader asks for it.
function facts(model) {
  const number = (value) => value?.toLocaleString(language === "zh" ? "zh-CN" : "en");
  const run = model.run ?? {};
  return {
    family: model.family, shape: say(SHAPES[model.shape]),
    task: model.task && say(model.task),
    parameters: number(model.parameters), weights: model.weights,
    context: number(model.context), vocabulary: number(model.vocabulary),
    can: model.can.map((name) => say(name)).join(say("comma")),
    tokensRead: number(run.tokens), steps: number(run.steps),
    took: run.seconds && duration(run.seconds), bestLoss: run.best_loss?.toFixed(4),
    energy: run.watt_hours && say("wattHours", { hours: run.watt_hours.toFixed(1) }),
    since: new Date(1000 * model.created).toLocaleString(language === "zh" ? "zh-CN" : "en"),
  };
}

export async function card(main, model) {
  const rows = Object.entries(facts(model)).filter(([, value]) => value).map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, say(name)), element("td", {}, value)));
  main.append(element("h2", {}, model.id), element("table", {},
    element("thead", {}, element("tr", {},
      element("th", { scope: "col" }, say("field")), element("th", { scope: "col" }, say("value")))),
    element("tbody", {}, ...rows)));
}

// The curves are drawn in pixels of the page, and anew where there is more or less room.
export async function curves(main, model) {
  const box = element("div", { class: "curve" });
  main.append(box);
  try {
    const { data } = await get(`/v1/models/${encodeURIComponent(model.id)}/curves`);
    const lines = {
      train: data.filter((row) => row.loss !== undefined).map((row) => [row.step, row.loss]),
      valid: data.filter((row) => row.valid_loss !== undefined).map((row) => [row.step, row.valid_loss]),
    };
    if (!lines.train.length && !lines.valid.length) {
      box.append(element("p", { class: "empty" }, say("noCurves")));
      return;
    }
    let drawnFor = 0;
    new ResizeObserver(() => {
      const width = Math.floor(box.clientWidth);
      if (!width || width === drawnFor) return;
      drawnFor = width;
      box.replaceChildren(drawn(lines, width));
    }).observe(box);
  } catch (error) {
    if (box.isConnected) told(error);
  }
}

// Round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten, about `most` of them.
function ticks(low, high, most, least = 0) {
  const rough = (high - low || 1) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, power * [1, 2, 5, 10].find((times) => times * power >= rough * 0.999));
  const first = Math.ceil(low / step - 1e-6), count = Math.floor(high / step + 1e-6) - first;
  return { step, at: Array.from({ length: count + 1 }, (_, place) => (first + place) * step) };
}

function make(name, given, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawn(lines, width) {
  const height = Math.round(Math.min(420, Math.max(240, width * 0.45)));
  const left = 52, right = 20, top = 44, bottom = 48;
  const all = [...lines.train, ...lines.valid];
  const losses = all.map(([, loss]) => loss).sort((a, b) => a - b), last = Math.max(...all.map(([step]) => step));
  const up = ticks(losses[0], losses[Math.floor(losses.length * 0.98)], Math.floor(height / 60));
  const low = Math.floor(losses[0] / up.step) * up.step;
  const high = Math.max(low + up.step, losses[Math.floor(losses.length * 0.98)]);
  const x = (step) => left + ((width - left - right) * step) / last;
  const y = (loss) => top + ((height - top - bottom) * (high - Math.min(loss, high))) / (high - low);
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.append(make("title", {}, `${say("loss")}: ${(lines.valid.at(-1) ?? lines.train.at(-1))[1].toFixed(3)}`));
  const digits = Math.max(0, -Math.floor(Math.log10(up.step) + 1e-9));
  for (const loss of ticks(low, high, 1000, up.step).at) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(loss), y2: y(loss) }));
    svg.append(make("text", { x: left - 8, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(digits)));
  }
  for (const step of ticks(0, last, Math.max(4, Math.floor(width / 90)), 1).at) {
    const text = step.toLocaleString("en");
    svg.append(make("text", { x: x(step), y: height - bottom + 18, "text-anchor": "middle" }, text));
  }
  svg.append(make("text", { x: 12, y: 20 }, say("loss")));
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 10, "text-anchor": "middle" }, say("step")));
  const legend = make("text", { x: width - right, y: 20, "text-anchor": "end" });
  for (const [name, points] of Object.entries(lines).filter(([, points]) => points.length)) {
    const path = points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
    svg.append(make("polyline", { class: name, points: path }));
    legend.append(make("tspan", { class: name, dx: legend.firstChild ? 14 : 0 }, "—"));
    legend.append(make("tspan", { dx: 5 }, `${say(name)} ${points.at(-1)[1].toFixed(3)}`));
  }
  svg.append(legend);
  return svg;
}
