// The grid of images.

import { getBlob, hasKey, linkTo, urlOf } from "./api.js";

// Below this size an image is shown with sharp pixels: smoothed, it would be a blur.
const SMALL = 72;
// Beyond this size the image fills its frame; smaller ones keep a margin.
const LARGE = 120;
// A long key is cut before its last characters, which tell items apart.
const TAIL = 9;

export function showImage(image, path, { onMissing } = {}) {
  image.addEventListener("load", () => {
    const side = Math.max(image.naturalWidth, image.naturalHeight);
    image.classList.toggle("pixels", side <= SMALL);
    image.parentElement?.classList.toggle("full", side >= LARGE && isSquarish(image));
  }, { once: true });
  image.addEventListener("error", () => onMissing?.(), { once: true });
  if (!hasKey()) {
    image.src = urlOf(path);
    return;
  }
  // An <img> cannot send a key.
  getBlob(path).then((blob) => showBlob(image, blob)).catch(() => onMissing?.());
}

export function showBlob(image, blob) {
  const url = URL.createObjectURL(blob);
  const release = () => URL.revokeObjectURL(url);
  image.addEventListener("load", release, { once: true });
  image.addEventListener("error", release, { once: true });
  image.src = url;
}

function topOf(element) {
  return element.getBoundingClientRect().top;
}

function isSquarish(image) {
  const shape = image.naturalWidth / image.naturalHeight;
  return shape > 0.85 && shape < 1.18;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function card(item, onChoose) {
  const entry = make("li", "card");
  const button = make("button");
  button.type = "button";
  button.title = item.key;

  const frame = make("span", "picture");
  const image = make("img");
  image.alt = item.label ? `${item.label}, ${item.key}` : item.key;
  image.decoding = "async";
  image.loading = "lazy";
  frame.append(image, make("span", "act", "Find similar"));
  const onMissing = () => image.replaceWith(make("span", "none", "no picture"));

  const text = make("span", "text");
  // Names are isolated: one that is written from right to left changes nothing around it.
  text.append(make("bdi", "label", item.label ?? ""));
  if (item.score !== undefined) {
    const score = make("span", "score", item.score.toFixed(3));
    score.title = "cosine similarity to the query";
    text.append(score);
  }
  const key = make("bdi", "key");
  const characters = [...item.key];
  key.append(
    make("span", "head", characters.slice(0, -TAIL).join("")),
    make("span", "tail", characters.slice(-TAIL).join("")),
  );
  text.append(key);

  button.append(frame);
  if (item.score !== undefined) {
    const bar = make("span", "bar");
    bar.style.setProperty("--share", Math.min(1, Math.max(0, item.score)));
    button.append(bar);
  }
  button.append(text);
  button.addEventListener("click", () => onChoose(item));
  entry.append(button);
  entry.draggable = true;
  entry.addEventListener("dragstart", (event) => {
    if (event.target.closest("a")) return;
    event.dataTransfer.clearData();
    event.dataTransfer.setData("text/uri-list", linkTo(item.key));
  });
  if (/^https?:\/\//.test(item.uri ?? "")) {
    const link = make("a", "", "Open the original");
    Object.assign(link, { href: item.uri, target: "_blank", rel: "noreferrer noopener" });
    entry.append(link);
  }
  showImage(image, `${item.thumbnail}?size=192`, { onMissing });
  return entry;
}

export function fill(grid, items, onChoose) {
  grid.replaceChildren(...items.map((item) => card(item, onChoose)));
}

// The arrow keys move between the images, by rows and columns as they are laid out.
export function moveWithArrows(grid) {
  grid.addEventListener("keydown", (event) => {
    const buttons = [...grid.querySelectorAll(".card > button")];
    const here = buttons.indexOf(document.activeElement);
    if (here < 0) return;
    const columns = buttons.filter((button) => topOf(button) === topOf(buttons[0])).length;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
      Home: -here, End: buttons.length - 1 - here,
    };
    const next = buttons[here + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}
