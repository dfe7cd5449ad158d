// The server, asked. Every refusal becomes an Error whose text is its sentence and hint.

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(body.error ?? `HTTP ${answer.status}`), { hint: body.hint ?? "" });
  return body;
}

const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

export const table = () => ask("/api/table");
export const search = (question, signal) => post("/api/search", question, signal);
export const facets = (question, signal) => post("/api/facets", question, signal);
export const item = (id) => ask(`/api/item?id=${encodeURIComponent(id)}`);
export const imageUrl = (id, size = "thumbnail") => `/api/image?id=${encodeURIComponent(id)}&size=${size}`;

export function encode(file) {
  const form = new FormData();
  form.append("image", file);
  return ask("/api/encode", { method: "POST", body: form });
}
