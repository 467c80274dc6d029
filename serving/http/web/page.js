// The page: one query at a time (an image or an item), its neighbours in a grid.
// The address holds what can be shared: ?key=…&k=…&min=…

import { getJSON, hasKey, onKeyNeeded, postImage } from "./api.js";
import { fill, moveWithArrows, showBlob, showPicture } from "./cards.js";
import { listenForImages } from "./inputs.js";
import { buttonRow, code, copied, heading, plural, say, sentence, tell } from "./words.js";

const $ = (id) => document.getElementById(id);
const SAMPLE = 24;
const FIRST_NUMBERS = 6;

let service = null;          // what /status said
let query = null;            // {key, item?} or {file}
let running = null;          // AbortController of the search that runs
const images = new Map();    // images of this visit by number, so that Back finds them again

// Runs one thing at a time; whatever ran before is given up.
async function busily(what, work) {
  running?.abort();
  const mine = running = new AbortController();
  $("grid").setAttribute("aria-busy", "true");
  say(what);
  try {
    await work(mine.signal);
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    say("");
    $("grid").replaceChildren();
    heading("That did not work");
    tell("problem", sentence(error.message), buttonRow("Start over", goHome));
    if (error.status === undefined) console.error(error);
  } finally {
    if (mine === running) $("grid").setAttribute("aria-busy", "false");
  }
}

// The query

function showQuery() {
  const shown = query !== null;
  $("preview").hidden = !shown;
  $("invite").hidden = shown;
  $("query").classList.toggle("filled", shown);
  $("choose").textContent = shown ? "Choose another" : "Choose an image";
  $("share").hidden = !query?.key;
  $("caption").replaceChildren();
  if (!shown) return;
  const image = new Image();
  image.alt = query.key ? `The item ${query.key}` : "Your image";
  $("preview").replaceChildren(image);
  if (query.key) {
    const path = `/items/${encodeURIComponent(query.key)}/thumbnail?size=384`;
    showPicture(image, path, { onMissing: () => $("preview").replaceChildren("no picture") });
    caption(query.item?.label ?? "", query.key);
  } else {
    image.addEventListener("load", () => {
      image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 72);
    });
    image.addEventListener("error", () => $("preview").replaceChildren("no preview"));
    showBlob(image, query.file);
    caption(query.file.name || "Pasted image", "");
  }
}

function caption(first, rest) {
  const name = Object.assign(document.createElement("strong"), { textContent: first });
  $("caption").replaceChildren(name, first && rest ? document.createElement("br") : "", rest);
}

function options() {
  const fields = { k: $("k").value };
  if (Number($("minimum").value) > 0) fields.min_score = $("minimum").value;
  return fields;
}

function showMinimum() {
  const value = Number($("minimum").value);
  $("minimum-shown").textContent = value > 0 ? value.toFixed(2) : "any";
}

// Searching

function run() {
  tell();
  $("others").hidden = true;
  showQuery();
  if (query === null) return start();
  if (!service.collection) return embedOnly();
  return busily("Searching…", async (signal) => {
    const fields = options();
    const began = performance.now();
    const answer = query.key
      ? await getJSON(`/items/${encodeURIComponent(query.key)}/similar?${new URLSearchParams(fields)}`, { signal })
      : await postImage("/search", query.file, fields, signal);
    const seconds = (performance.now() - began) / 1000;
    if (query.key && !query.item) describeItem(query, signal);
    showNeighbours(answer.neighbours, fields, seconds);
  });
}

function showNeighbours(neighbours, fields, seconds) {
  fill($("grid"), neighbours, choose);
  const count = neighbours.length;
  heading(count ? plural(count, "look-alike", "look-alikes") : "No look-alikes");
  say(`the most similar first · ${seconds.toFixed(2)} s`);
  if (count > 0) return;
  say("");
  if (service.collection.items === 0) return tellEmpty();
  if (fields.min_score) {
    tell("", `Nothing in the collection reaches a score of ${Number(fields.min_score).toFixed(2)}.`,
      "Lower the minimum score to see the nearest items.");
  } else {
    tell("", "There is nothing else in the collection.");
  }
}

async function describeItem(asked, signal) {
  try {
    asked.item = await getJSON(`/items/${encodeURIComponent(asked.key)}`, { signal });
    if (asked === query) caption(asked.item.label ?? "", asked.key);
  } catch {
    // The search itself says what is wrong.
  }
}

function embedOnly() {
  return busily("Embedding…", async (signal) => {
    const answer = await postImage("/embed", query.file, {}, signal);
    const [vector] = answer.embeddings;
    heading("Embedded");
    say(plural(answer.dimensions, "number", "numbers"));
    const first = vector.slice(0, FIRST_NUMBERS).map((number) => number.toFixed(4)).join(", ");
    tell("", "This service has no collection to search; it turned your image into an embedding:",
      code(`[${first}, …]`),
      buttonRow("Copy as JSON", (button) => copied(button, JSON.stringify(vector))));
  });
}

function start() {
  $("grid").replaceChildren();
  heading("Lookalike");
  if (!service.collection) {
    say("");
    $("grid").setAttribute("aria-busy", "false");
    tell("", "This service turns images into embeddings. It has no collection to search: start it with one to find look-alikes here.");
    return undefined;
  }
  return busily("Loading…", async (signal) => {
    const { count, items } = await getJSON(`/items?sample=${SAMPLE}`, { signal });
    service.collection.items = count;
    showFacts();
    if (count === 0) {
      say("");
      return tellEmpty();
    }
    heading("Start with one of these");
    say("or with an image of your own");
    $("others").hidden = count <= items.length;
    fill($("grid"), items, choose);
  });
}

function tellEmpty() {
  heading("The collection is empty");
  tell("", "Add images to it, and their look-alikes will be found here. In a terminal:",
    code("lookalike collection add COLLECTION PICTURES"),
    "or over HTTP:",
    code(`curl -F image=@picture.jpg ${location.origin}/items`));
}

// Choosing: each choice is a step in the browser's history.

function address() {
  const parameters = new URLSearchParams();
  if (query?.key) parameters.set("key", query.key);
  if ($("k").value !== "24") parameters.set("k", $("k").value);
  if (Number($("minimum").value) > 0) parameters.set("min", $("minimum").value);
  const text = parameters.toString();
  return text ? `/?${text}` : "/";
}

function choose(item) {
  query = { key: item.key, item };
  history.pushState(null, "", address());
  scrollTo({ top: 0 });
  run();
}

function chooseFile(file) {
  if (!file) return;
  const limit = service?.limits.image_bytes ?? Infinity;
  if (file.type && !file.type.startsWith("image/")) {
    tell("problem", `${file.name} is not an image, it is ${file.type}.`);
    return;
  }
  if (file.size > limit) {
    tell("problem", `${file.name} has ${megabytes(file.size)} MB; this service takes ${megabytes(limit)} MB.`);
    return;
  }
  query = { file };
  const number = images.size + 1;
  images.set(number, file);
  history.pushState({ image: number }, "", address());
  scrollTo({ top: 0 });
  run();
}

function goHome() {
  history.pushState(null, "", "/");
  restore();
}

function megabytes(bytes) {
  return (bytes / 2 ** 20).toFixed(1);
}

function restore() {
  const parameters = new URLSearchParams(location.search);
  const k = parameters.get("k") ?? "24";
  $("k").value = [...$("k").options].some((option) => option.value === k) ? k : "24";
  $("minimum").value = parameters.get("min") ?? "0";
  showMinimum();
  const file = images.get(history.state?.image);
  if (parameters.get("key")) query = { key: parameters.get("key") };
  else query = file ? { file } : null;
  run();
}

// Inputs

function changed() {
  history.replaceState(history.state, "", address());
  if (query) run();
}

let pause = 0;
$("k").addEventListener("change", changed);
$("minimum").addEventListener("input", () => {
  showMinimum();
  clearTimeout(pause);
  pause = setTimeout(changed, 250);
});
$("others").addEventListener("click", () => start());
$("share").addEventListener("click", (event) => copied(event.target, location.href));
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  goHome();
});

// The key

onKeyNeeded((why) => new Promise((resolve) => {
  const dialog = $("key-dialog");
  if (why) $("key-why").textContent = why;
  $("key-input").value = "";
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  $("key-form").onsubmit = (event) => {
    event.preventDefault();
    dialog.close();
    resolve($("key-input").value.trim());
  };
  dialog.showModal();
}));

// The beginning

function showFacts() {
  const { collection, encoder } = service;
  const more = Object.assign(document.createElement("span"), {
    className: "more", textContent: ` · embeddings of ${encoder.dimensions} numbers`,
  });
  const items = collection ? plural(collection.items, "item", "items") : "no collection";
  $("facts").replaceChildren(items, more);
  $("encoder").textContent = `Encoder ${encoder.sha256.slice(0, 12)} · ${encoder.image_size} px`;
  $("encoder").title = encoder.sha256;
  $("controls").hidden = !collection;
}

async function begin() {
  try {
    service = await getJSON("/status");
  } catch (error) {
    heading("Lookalike");
    tell("problem", sentence(error.message), buttonRow("Try again", () => location.reload()));
    return;
  }
  showFacts();
  moveWithArrows($("grid"));
  listenForImages(chooseFile, () => {
    tell("problem", "That was a link to an image. Save the image first, then drop the file.");
  });
  addEventListener("popstate", restore);
  restore();
}

begin();
