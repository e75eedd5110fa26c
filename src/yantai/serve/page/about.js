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
    shape: `${model.family} · ${say(SHAPES[model.shape])}`,
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
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, say("field")), element("th", { scope: "col" }, say("value")))),
    element("tbody", {}, ...rows)));
}

export async function curves(main, model) {
  try {
    const { data } = await get(`/v1/models/${encodeURIComponent(model.id)}/curves`);
    main.append(data.length ? drawn(data) : element("p", { class: "empty" }, say("noCurves")));
  } catch (error) {
    told(error);
  }
}

function drawn(rows) {
  const width = 800, height = 360, left = 56, bottom = 36, top = 12, right = 28;
  const space = "http://www.w3.org/2000/svg";
  const make = (name, given, text) => {
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const lines = {
    train: rows.filter((row) => row.loss !== undefined).map((row) => [row.step, row.loss]),
    valid: rows.filter((row) => row.valid_loss !== undefined).map((row) => [row.step, row.valid_loss]),
  };
  const all = [...lines.train, ...lines.valid];
  const steps = all.map(([step]) => step), losses = all.map(([, loss]) => loss).sort((a, b) => a - b);
  const last = Math.max(...steps), low = losses[0] * 0.97, high = losses[Math.floor(losses.length * 0.98)];
  const x = (step) => left + ((width - left - right) * step) / last;
  const y = (loss) => top + ((height - top - bottom) * (high - Math.min(loss, high))) / (high - low || 1);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img" });
  svg.append(make("title", {}, `${say("loss")}: ${lines.valid.at(-1)?.[1]?.toFixed(3) ?? losses[0].toFixed(3)}`));
  for (let mark = 0; mark <= 4; mark++) {
    const loss = low + ((high - low) * mark) / 4, step = Math.round((last * mark) / 4);
    svg.append(make("text", { x: left - 8, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
    svg.append(make("text", { x: x(step), y: height - bottom + 18, "text-anchor": "middle" }, step.toLocaleString()));
  }
  svg.append(make("text", { x: width - right, y: height - 4, "text-anchor": "end" }, say("step")));
  let place = top + 14;
  for (const [name, points] of Object.entries(lines)) {
    if (!points.length) continue;
    svg.append(make("polyline", { class: name, points: points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ") }));
    svg.append(make("line", { class: name, x1: width - 150, x2: width - 120, y1: place - 4, y2: place - 4, "stroke-width": 2 }));
    svg.append(make("text", { x: width - 112, y: place }, `${say(name)} ${points.at(-1)[1].toFixed(3)}`));
    place += 20;
  }
  return svg;
}
