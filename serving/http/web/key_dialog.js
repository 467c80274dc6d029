// The dialog that asks for an API key. It can be closed; the page then offers to open it again.

const $ = (id) => document.getElementById(id);

let answer = null;

// What is wrong with a key that no service can have: keys are printable ASCII.
function faultOf(key) {
  if (key === "") return "The key is empty.";
  const characters = [...key];
  const place = characters.findIndex((one) => !/^[\x20-\x7e]$/.test(one));
  if (place < 0) return "";
  const wrong = characters[place];
  const number = wrong.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const seen = /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(wrong) ? `“${wrong}”` : "one that is not seen";
  return `Character ${place + 1} of the key cannot be in a key: ${seen} (U+${number}). Copy the key again, or type it.`;
}

function showWhy(text) {
  $("key-why").textContent = text;
}

// Resolves to a key, or to null if the dialog is closed without one.
export function askForKey(why) {
  showWhy(why || "This service answers only those who have a key.");
  $("key-input").value = "";
  $("key-dialog").showModal();
  return new Promise((resolve) => { answer = resolve; });
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key-input").value.trim();
  const fault = faultOf(key);
  if (fault) {
    showWhy(fault);
    $("key-input").focus();
    return;
  }
  answer?.(key);
  $("key-dialog").close();
});
$("key-dialog").addEventListener("close", () => {
  // The event comes later: by then the dialog may be open for another question.
  if (!$("key-dialog").open) answer?.(null);
});
