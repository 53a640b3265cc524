// What the modules of the page share.
export const $ = (id) => document.getElementById(id);
export const state = { project: null, rows: new Int32Array(0), facts: new Map(), at: 0, text: "", like: -1, region: null };

export async function api(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("the server does not answer; start `ccd open` again"); }
  if (answer.ok) return answer;
  const text = await answer.text();
  let reason = text;
  try { reason = JSON.parse(text).error ?? text; } catch { /* plain text */ }
  throw new Error(reason.trim() || `the server refused (${answer.status})`);
}
export function problem(error) {
  $("problem").textContent = error ? error.message ?? String(error) : "";
  $("problem").hidden = !error;
}
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
