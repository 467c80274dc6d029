// The ways an image comes in: file button, clipboard, drag and drop.

import { keyOfLink } from "./api.js";

const $ = (id) => document.getElementById(id);

const DROPPED = ["Files", "text/uri-list"];

function megabytes(bytes) {
  return (bytes / 2 ** 20).toFixed(1);
}

// Why a file is not sent at all, or "".
export function faultOfFile(file, limit) {
  if (file.type && !file.type.startsWith("image/")) {
    return `${file.name} is not an image, it is ${file.type}.`;
  }
  if (file.size > limit) {
    return `${file.name} has ${megabytes(file.size)} MB; this service takes ${megabytes(limit)} MB.`;
  }
  return "";
}

function carries(event) {
  return DROPPED.some((type) => event.dataTransfer.types.includes(type));
}

// `onFile(file)` receives an image, `onKey(key)` an item of this service; `onLink()` is called for a
// drop that holds only another link.
export function listenForImages(onFile, onKey, onLink) {
  $("choose").addEventListener("click", () => $("file").click());
  $("drop").addEventListener("click", () => { if ($("preview").hidden) $("file").click(); });
  $("file").addEventListener("change", (event) => {
    onFile(event.target.files[0]);
    event.target.value = "";
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    onFile(file);
  });

  let inside = 0;
  addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    inside += 1;
    $("veil").hidden = false;
  });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("dragleave", () => {
    inside = Math.max(0, inside - 1);
    if (inside === 0) $("veil").hidden = true;
  });
  addEventListener("drop", (event) => {
    inside = 0;
    $("veil").hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    // First: with a picture of the page itself, browsers hand over a file too.
    const key = keyOfLink(event.dataTransfer.getData("text/uri-list").trim());
    if (key !== null) onKey(key);
    else if (event.dataTransfer.files.length > 0) onFile(event.dataTransfer.files[0]);
    else onLink();
  });
}
