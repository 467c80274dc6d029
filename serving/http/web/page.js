// The page: one query at a time (an image or an item), its neighbors in a grid.
// The address holds what can be shared: ?key=…&k=…&min=…

import { getJSON, postImage, urlOf } from "./api.js";
import { fill, moveWithArrows, showBlob, showImage } from "./cards.js";
import { faultOfFile, listenForImages } from "./inputs.js";
import { keepFile, keptFile } from "./kept_files.js";
import {
  buttonRow, code, copyText, plural, sentence, showCaption, showHeading, showMessage, showNote,
} from "./messages.js";

const $ = (id) => document.getElementById(id);
const SAMPLE = 24;
const FIRST_NUMBERS = 6;

let service = null;          // the answer of /status
let query = null;            // {key, item?} or {file}
let running = null;          // AbortController of the search that runs

// Runs one thing at a time; whatever ran before is given up.
async function runExclusively(note, work) {
  running?.abort();
  const mine = running = new AbortController();
  $("grid").setAttribute("aria-busy", "true");
  showNote(note);
  try {
    await work(mine.signal);
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    showNote("");
    $("grid").replaceChildren();
    if (error.status === 401) return showLocked(run);
    showHeading("That did not work");
    showMessage("problem", sentence(error.message), buttonRow("Start over", goHome));
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
  $("query").querySelector(".copy")?.remove();
  $("caption").replaceChildren();
  if (!shown) return;
  const image = new Image();
  image.alt = query.key ? `The item ${query.key}` : "Your image";
  $("preview").replaceChildren(image);
  if (query.key) {
    const path = `/items/${encodeURIComponent(query.key)}/thumbnail?size=384`;
    showImage(image, path, { onMissing: () => $("preview").replaceChildren("no picture") });
    showCaption(query.item?.label ?? "", query.key);
  } else {
    image.addEventListener("load", () => {
      image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 72);
    });
    image.addEventListener("error", () => $("preview").replaceChildren("no preview"));
    showBlob(image, query.file);
    showCaption(nameOf(query), "");
  }
}

function nameOf({ key, file }) {
  return key ?? (file.name || "Pasted image");
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
  showMessage();
  $("others").hidden = true;
  showQuery();
  if (query === null) return start();
  if (!service.collection) return embedOnly();
  return runExclusively("Searching…", async (signal) => {
    const fields = options();
    const began = performance.now();
    const answer = query.key
      ? await getJSON(`/items/${encodeURIComponent(query.key)}/similar?${new URLSearchParams(fields)}`, { signal })
      : await postImage("/search", query.file, fields, signal);
    const seconds = (performance.now() - began) / 1000;
    if (query.key && !query.item) describeItem(query, signal);
    showNeighbors(answer.neighbours, fields, seconds);
  });
}

function showNeighbors(neighbors, fields, seconds) {
  fill($("grid"), neighbors, choose);
  const count = neighbors.length;
  showHeading(count ? plural(count, "look-alike", "look-alikes") : "No look-alikes", nameOf(query));
  showNote(`the most similar first · ${seconds.toFixed(2)} s`);
  if (count > 0) return;
  showNote("");
  if (service.collection.items === 0) return showEmpty();
  if (fields.min_score) {
    showMessage("", `Nothing in the collection reaches a score of ${Number(fields.min_score).toFixed(2)}.`,
      "Lower the minimum score to see the nearest items.");
  } else {
    showMessage("", "There is nothing else in the collection.");
  }
}

async function describeItem(described, signal) {
  try {
    described.item = await getJSON(`/items/${encodeURIComponent(described.key)}`, { signal });
    if (described === query) showCaption(described.item.label ?? "", described.key);
  } catch {
    // The search itself says what is wrong.
  }
}

function embedOnly() {
  return runExclusively("Embedding…", async (signal) => {
    const answer = await postImage("/embed", query.file, {}, signal);
    const [vector] = answer.embeddings;
    showHeading("Embedded", nameOf(query));
    showNote(plural(answer.dimensions, "number", "numbers"));
    const first = vector.slice(0, FIRST_NUMBERS).map((number) => number.toFixed(4)).join(", ");
    showMessage("", "This service has no collection to search; it turned your image into an embedding:",
      code(`[${first}, …]`),
      buttonRow("Copy as JSON", (button) => copyText(button, JSON.stringify(vector))));
  });
}

function start() {
  $("grid").replaceChildren();
  showHeading("Lookalike");
  if (!service.collection) {
    showNote("");
    $("grid").setAttribute("aria-busy", "false");
    showMessage("", "This service turns images into embeddings. It has no collection to search: start it with one to find look-alikes here.");
    return undefined;
  }
  return runExclusively("Loading…", async (signal) => {
    const { count, items } = await getJSON(`/items?sample=${SAMPLE}`, { signal });
    service.collection.items = count;
    showFacts();
    if (count === 0) {
      showNote("");
      return showEmpty();
    }
    showHeading("Start with one of these");
    showNote("or with an image of your own");
    $("others").hidden = count <= items.length;
    fill($("grid"), items, choose);
  });
}

function showEmpty() {
  showHeading("The collection is empty");
  showMessage("", "Add images to it, and their look-alikes will be found here. In a terminal:",
    code("lookalike collection add COLLECTION PICTURES"),
    "or over HTTP:",
    code(`curl -F image=@picture.jpg ${urlOf("/items")}`));
}

// Choosing: each choice is a step in the browser's history.

function address() {
  const parameters = new URLSearchParams();
  if (query?.key) parameters.set("key", query.key);
  if ($("k").value !== "24") parameters.set("k", $("k").value);
  if (Number($("minimum").value) > 0) parameters.set("min", $("minimum").value);
  const text = parameters.toString();
  return text ? `./?${text}` : "./";
}

function choose(item) {
  const fromCard = $("grid").contains(document.activeElement);
  query = { key: item.key, item: item.thumbnail && item };
  history.pushState(null, "", address());
  scrollTo({ top: 0 });
  // The card that has the focus will be replaced.
  if (fromCard) $("results").focus({ preventScroll: true });
  run();
}

function chooseFile(file) {
  if (!file) return;
  const fault = faultOfFile(file, service?.limits.image_bytes ?? Infinity);
  if (fault) return refuse(fault);
  query = { file };
  history.pushState({ image: keepFile(file) }, "", address());
  scrollTo({ top: 0 });
  run();
}

// What was shown before belongs to another image: it goes.
function refuse(why) {
  running?.abort();
  running = query = null;
  history.pushState(null, "", address());
  showQuery();
  $("others").hidden = true;
  $("grid").replaceChildren();
  $("grid").setAttribute("aria-busy", "false");
  showHeading("That did not work");
  showNote("");
  showMessage("problem", why, buttonRow("Start over", goHome));
}

function goHome() {
  history.pushState(null, "", "./");
  restore();
}

function restore() {
  const parameters = new URLSearchParams(location.search);
  const k = parameters.get("k") ?? "24";
  $("k").value = [...$("k").options].some((option) => option.value === k) ? k : "24";
  $("minimum").value = parameters.get("min") ?? "0";
  showMinimum();
  const file = keptFile(history.state?.image);
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
$("share").addEventListener("click", (event) => copyText(event.target, location.href));
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  goHome();
});

// The beginning

function showLocked(again) {
  showHeading("An API key is needed");
  showMessage("", "This service answers only those who have a key.", buttonRow("Enter a key", again));
}

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
    if (error.status === 401) return showLocked(begin);
    showHeading("Lookalike");
    showMessage("problem", sentence(error.message), buttonRow("Try again", () => location.reload()));
    return;
  }
  showMessage();
  showFacts();
  moveWithArrows($("grid"));
  listenForImages(chooseFile, (key) => choose({ key }), () => {
    refuse("That was a link to an image. Save the image first, then drop the file.");
  });
  addEventListener("popstate", restore);
  restore();
}

begin();
