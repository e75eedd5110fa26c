// Requests to the server, and its streams of events.
let key = sessionStorage.getItem("key") || "";

export function useKey(text) {
  key = text;
  sessionStorage.setItem("key", text);
}

export const hasKey = () => key !== "";

// `code` says what went wrong, where the server has a name for it; `type` of what kind it is, `param` where.
export class Refused extends Error {
  constructor(status, { message, code, type, param }) {
    super(message);
    Object.assign(this, { status, code, type, param });
  }
}

function lost(error) {
  throw error.name === "AbortError" ? error : new Refused(0, { message: error.message, code: "unreachable" });
}

async function ask(path, options = {}) {
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}) };
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(path, { ...options, headers }).catch(lost);
  if (!answer.ok) {
    const table = await answer.json().catch(() => null);
    throw new Refused(answer.status, table?.error ?? { message: `${answer.status}` });
  }
  return answer;
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body) {
  return (await ask(path, { method: "POST", body: JSON.stringify(body) })).json();
}

// Tables of a stream, one after the other; `signal` ends it.
export async function* stream(path, body, signal) {
  const answer = await ask(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    signal.throwIfAborted();
    if (done) return;
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const line = rest.slice(0, end);
      rest = rest.slice(end + 2);
      const data = line.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const table = JSON.parse(data);
      if (table.error) throw new Refused(500, table.error);
      yield table;
    }
  }
}
