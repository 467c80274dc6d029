// The last images of this visit, so that Back finds them again.

const KEPT = 16;
const files = new Map();

// Keeps a file until many others came after it, and returns its id. The id is of this visit: a page
// that is loaded anew has the history of the one before, but not its files.
export function keepFile(file) {
  const id = performance.timeOrigin + performance.now();
  files.set(id, file);
  if (files.size > KEPT) files.delete(files.keys().next().value);
  return id;
}

export function keptFile(id) {
  return files.get(id);
}
