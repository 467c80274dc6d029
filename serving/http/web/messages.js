// The texts around the grid: heading, note, messages.

const $ = (id) => document.getElementById(id);

export function showNote(text) {
  $("note").textContent = text;
}

export function showMessage(kind, ...paragraphs) {
  const box = $("message");
  box.className = kind ? `message ${kind}` : "message";
  box.hidden = paragraphs.length === 0;
  box.replaceChildren(...paragraphs.map((paragraph) => {
    if (paragraph instanceof Node) return paragraph;
    const element = document.createElement("p");
    element.textContent = paragraph;
    return element;
  }));
}

export function code(text) {
  const paragraph = document.createElement("p");
  paragraph.append(Object.assign(document.createElement("code"), { textContent: text }));
  return paragraph;
}

export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

export function buttonRow(text, onClick) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.addEventListener("click", () => onClick(button));
  const row = Object.assign(document.createElement("div"), { className: "buttons" });
  row.append(button);
  return row;
}

// `name`, of the query, tells tabs apart.
export function showHeading(text, name = "") {
  $("heading").textContent = text;
  document.title = [...new Set([name, text, "Lookalike"])].filter(Boolean).join(" · ");
}

// Names are isolated: one that is written from right to left changes nothing around it.
export function showCaption(first, rest) {
  const [name, key] = [first, rest].map(
    (text) => Object.assign(document.createElement("bdi"), { textContent: text }));
  const strong = document.createElement("strong");
  strong.append(name);
  $("caption").replaceChildren(strong, first && rest ? document.createElement("br") : "", key);
}

export function plural(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

// Where the browser lets no page write to the clipboard (plain HTTP): the text, selected.
function showSelected(button, text) {
  const row = button.closest(".buttons");
  const field = row.querySelector("textarea") ?? document.createElement("textarea");
  Object.assign(field, { className: "copy", readOnly: true, rows: 2, value: text });
  field.setAttribute("aria-label", "Copy this text");
  row.append(field);
  field.focus();
  field.select();
}

export async function copyText(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    showSelected(button, text);
    return;
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}
