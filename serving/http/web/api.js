// Requests to the service: the API key, and refusals as errors.

import { askForKey } from "./key_dialog.js";

const KEY = "lookalike-api-key";
export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.type = error.type;
  }
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

// A path of the service, as a URL: behind a proxy the service may have a prefix, which the page has.
export function urlOf(path) {
  return new URL(`.${path}`, document.baseURI).href;
}

// The page's own address of an item's look-alikes, and the item of such an address or null.
export function linkTo(key) {
  return urlOf(`/?key=${encodeURIComponent(key)}`);
}

export function keyOfLink(link) {
  if (!URL.canParse(link)) return null;
  const { origin, pathname, searchParams } = new URL(link);
  return origin + pathname === urlOf("/") ? searchParams.get("key") : null;
}

async function send(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    return await fetch(urlOf(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, {
      type: "unreachable",
      message: "The service does not answer. It may have been stopped; try again in a moment.",
    });
  }
}

async function refusalOf(response) {
  try {
    return new Refused(response.status, (await response.json()).error);
  } catch {
    return new Refused(response.status, {
      type: "unknown",
      message: `The service answered with status ${response.status}.`,
    });
  }
}

// One dialog at a time, whichever request needs it.
let asking = null;

async function call(path, options = {}) {
  let response = await send(path, options);
  while (response.status === 401) {
    const why = hasKey() ? "That key is not known to this service." : "";
    asking ??= askForKey(why).finally(() => { asking = null; });
    const key = await asking;
    if (key === null) throw await refusalOf(response);
    sessionStorage.setItem(KEY, key);
    response = await send(path, options);
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

export async function getJSON(path, options) {
  return (await call(path, options)).json();
}

export async function getBlob(path, options) {
  return (await call(path, options)).blob();
}

// Whether a file can still be read: browsers refuse one that was changed or removed since it was chosen.
async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

// An image as it is, in one part of a form; other fields beside it.
export async function postImage(path, file, fields, signal) {
  const form = new FormData();
  form.append(path === "/embed" ? "images" : "image", file, file.name || "image");
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  try {
    return await getJSON(path, { method: "POST", body: form, signal });
  } catch (error) {
    if (error.type !== "unreachable" || await isReadable(file)) throw error;
    throw new Refused(0, {
      type: "file-changed",
      message: `The file ${file.name} has changed or is no longer there. Choose it again.`,
    });
  }
}
