// Shared by all widgets' scripts: making elements, following the model, filling in texts.

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  // keys typed in this element must not trigger Lab's shortcuts; Lab looks for this mark on the focused element
  made.dataset.lmSuppressShortcuts = "true";
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name.startsWith("data-") || name === "role" || name === "for") {
      made.setAttribute(name, value);
    } else {
      made[name] = value;
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function button(className = "") {
  return element("button", { type: "button", className: `wl-button ${className}` });
}

// Enter in a line of text; not the one that ends the composition of a Korean or Chinese character. A form's own submission
// does not come about in Lab, which keeps the key from it.
function onEnter(input, act) {
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });
}

// Calls `show` now and at every change of one of the traits, until `signal` is aborted.
function follow(model, signal, names, show) {
  const events = names.split(" ").map((name) => `change:${name}`);
  for (const event of events) model.on(event, show);
  signal.addEventListener("abort", () => events.forEach((event) => model.off(event, show)));
  show();
}

function hear(model, signal, handler) {
  model.on("msg:custom", handler);
  signal.addEventListener("abort", () => model.off("msg:custom", handler));
}

// Prepares the root of a view, with its language for screen readers. The view aborts the result when it is removed.
function begin({ model, el }, className) {
  const ending = new AbortController();
  el.classList.add("wl", className);
  follow(model, ending.signal, "lang", () => (el.lang = model.get("lang")));
  return ending;
}

function say(model, name, values = {}) {
  const text = model.get("words")[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

// A page that was not opened on this machine has no access to the clipboard: the browser's older command copies then.
async function copyText(text, near) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = element("textarea", { value: text, readOnly: true });
    near.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    near.focus();
  }
}

// A text in which a command in backticks can be selected at a click, as elements.py: with_code makes it.
function withCode(text) {
  return text.split(/`([^`]+)`/).map((part, index) =>
    index % 2 ? element("code", { className: "wl-code", textContent: part }) : part);
}

// Scrolls to what `find` returns as soon as it is in the page and visible, where the model asks for that: once, and not
// at every reload.
function revealOnce(model, signal, find, block) {
  if (!model.get("reveal")) return;
  requestAnimationFrame(function reveal() {
    const target = find();
    if (signal.aborted) return;
    if (!target?.isConnected || !target.offsetHeight) return requestAnimationFrame(reveal);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    target.scrollIntoView({ block, behavior: calm ? "instant" : "smooth" });
    model.set("reveal", false);
    model.save_changes();
  });
}

// 75 → 1:15
function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

function size(bytes) {
  for (const [unit, many] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= many) return `${(bytes / many).toFixed(bytes < 10 * many ? 1 : 0)} ${unit}`;
  }
  return `${bytes} B`;
}

// What this browser remembers between pages: the language, the theme, what was typed. A page that may store nothing, as
// in a sandboxed frame, remembers nothing.
const memory = {
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(`wanavatar.${name}`));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`wanavatar.${name}`, JSON.stringify(value));
    } catch (error) {
      console.warn(`WanAvatar Lab: this browser does not remember ${name}.`, error);
    }
  },
  forget(name) {
    try {
      localStorage.removeItem(`wanavatar.${name}`);
    } catch {
      // then it was not remembered either
    }
  },
};
