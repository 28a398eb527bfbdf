// Sends a file in chunks, each after the answer to the one before. The view shows only the kernel's state, so that a
// second view, or one after a reload, shows the same.

const PATIENCE = 60; // seconds without an answer

function render({ model, el }) {
  const ending = begin({ model, el }, "wl-upload");
  const { signal } = ending;
  let sending = null; // { id, answer, cancelled }
  let silent = false;
  const around = model.get("around");
  el.classList.toggle("wl-upload-around", Boolean(around));

  const input = element("input", { type: "file", hidden: true, accept: model.get("accept") });
  const choose = button("wl-main");
  const cancel = button();
  const hint = element("span", { className: "wl-soft" });
  const status = element("output", { "aria-live": "polite" });
  const bar = element("progress", { max: 1 });
  const picture = element("img", { className: "wl-upload-preview", alt: "" });
  // most browsers draw neither HEIC nor TIFF
  picture.addEventListener("error", () => (picture.hidden = true));
  const error = element("div", { className: "wl-error", role: "alert" });
  const dismiss = button();
  const zone = element(
    "div",
    { className: "wl-upload-zone", role: "group" },
    picture,
    element("div", { className: "wl-upload-body" },
      element("div", { className: "wl-row" }, choose, hint, cancel), status, bar, error),
    around ? dismiss : null,
  );
  el.append(zone, input);

  follow(model, signal, "words state name size received error preview said", () => {
    const [state, bytes, received] = ["state", "size", "received"].map((name) => model.get(name));
    const busy = state === "receiving" || state === "checking";
    choose.textContent = say(model, "choose");
    hint.textContent = say(model, "drop", { types: model.get("accept").replaceAll(",", " ") });
    cancel.textContent = say(model, "cancel");
    zone.setAttribute("aria-label", say(model, "region"));
    bar.setAttribute("aria-label", say(model, "region"));
    bar.hidden = !busy;
    if (state === "receiving") bar.value = bytes ? received / bytes : 0;
    else bar.removeAttribute("value");
    cancel.hidden = state !== "receiving";
    choose.disabled = busy;
    hint.hidden = busy;
    const values = { name: model.get("name"), size: size(bytes), received: size(received) };
    status.textContent = state === "empty" ? "" : say(model, state, values);
    const text = silent ? say(model, "silent", { seconds: PATIENCE }) : model.get("error");
    error.textContent = text;
    error.hidden = !text;
    const shown = model.get("preview");
    picture.hidden = !shown;
    if (shown) {
      picture.src = fileUrl(shown);
      picture.alt = values.name;
    }
    zone.dataset.state = state;
    if (around) {
      const said = model.get("said");
      choose.hidden = hint.hidden = true;
      picture.hidden = true;
      if (!busy) status.textContent = said;
      dismiss.textContent = say(model, "dismiss");
      dismiss.hidden = busy;
      const appears = el.hidden && (text || said);
      el.hidden = !busy && !text && !said;
      if (appears) el.scrollIntoView({ block: "nearest" });
    }
  });

  hear(model, signal, (message) => {
    if (sending && message.id === sending.id) sending.answer(message);
  });

  function ask(content, buffers) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve({ kind: "silent" }), PATIENCE * 1000);
      sending.answer = (message) => {
        clearTimeout(timer);
        resolve(message);
      };
      model.send(content, undefined, buffers);
    });
  }

  async function send(file, field = "") {
    if (choose.disabled) return;
    const id = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
    const mine = (sending = { id, answer: () => {}, cancelled: false });
    silent = false;
    const step = model.get("chunk_bytes");
    let answer = await ask({ kind: "begin", id, name: file.name, size: file.size, field });
    while (answer.kind === "ack" && answer.offset < file.size && !mine.cancelled) {
      const offset = answer.offset;
      const bytes = await file.slice(offset, offset + step).arrayBuffer();
      if (mine.cancelled) return;
      answer = await ask({ kind: "chunk", id, offset }, [bytes]);
    }
    silent = answer.kind === "silent";
    if (silent) {
      error.textContent = say(model, "silent", { seconds: PATIENCE });
      error.hidden = el.hidden = false;
    }
  }

  // one after the other; a refused file ends it, since the next one would replace its error
  async function sendAll(files, field) {
    for (const file of files) {
      await send(file, field);
      while (["receiving", "checking"].includes(model.get("state")) && !silent && !signal.aborted) {
        await changed("state");
      }
      if (model.get("state") !== "done") return;
    }
  }

  function changed(trait) {
    return new Promise((resolve) => {
      const heard = () => {
        model.off(`change:${trait}`, heard);
        resolve();
      };
      model.on(`change:${trait}`, heard);
    });
  }

  function stop() {
    if (sending) sending.cancelled = true;
    model.send({ kind: "cancel", id: sending ? sending.id : "" });
  }

  choose.addEventListener("click", () => input.click());
  cancel.addEventListener("click", stop);
  dismiss.addEventListener("click", () => model.send({ kind: "dismiss" }));
  input.addEventListener("change", () => {
    // beside a form that takes files by itself, of a file that is chosen only the settings are wanted
    if (input.files.length) send(input.files[0], around ? ":settings" : "");
    input.value = ""; // so that the same file can be chosen again
  });
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("wl-over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("wl-over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation(); // Lab would open the file
    zone.classList.remove("wl-over");
    if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
  if (around) takeAllAround();

  function takeAllAround() {
    // captured before Lab handles it; a drop zone inside handles its own files
    const hears = { capture: true, signal };
    const place = (event) => {
      const types = event.dataTransfer.types;
      if (!types.includes(RESULT) && (!types.includes("Files") || event.target.closest(".wl-upload-zone"))) return null;
      const found = el.closest(`.${around}`);
      return found && found === (event.target.closest(`.${around}`) ?? (types.includes(RESULT) ? null : inSight())) ? found : null;
    };
    // a file dropped outside all of them is for the visible one; in Lab it may be meant for Lab itself
    const inSight = () => {
      const takers = [...document.querySelectorAll(`.${around}:has(.wl-upload-around)`)];
      const seen = takers.filter((taker) => taker.getClientRects().length);
      return inVoila && seen.length === 1 ? seen[0] : null;
    };
    const take = (result) => model.send({ kind: "result", ...result });
    el.addEventListener("wl-result", (event) => take(event.detail), { signal });
    let marked = null;
    const mark = (found) => {
      marked?.classList.remove("wl-over");
      marked = found;
      marked?.classList.add("wl-over");
    };
    document.addEventListener("dragover", (event) => {
      const found = place(event);
      const target = found && (event.target.closest(".wl-file") ?? found); // of a file that is let go in a field, it is the field
      if (target !== marked) mark(target);
      if (!found) return;
      event.dataTransfer.dropEffect = "copy";
      event.preventDefault();
      event.stopPropagation();
    }, hears);
    document.addEventListener("dragleave", (event) => {
      if (!marked?.contains(event.relatedTarget)) mark(null);
    }, hears);
    document.addEventListener("drop", (event) => {
      const found = place(event);
      mark(null);
      if (!found) return;
      event.preventDefault();
      event.stopPropagation();
      const field = fieldAt(event.target);
      const result = event.dataTransfer.getData(RESULT);
      if (result) take({ ...JSON.parse(result), field });
      else sendAll([...event.dataTransfer.files], field);
    }, hears);
  }
  return () => {
    if (sending) sending.cancelled = true;
    ending.abort();
  };
}

export default { render };
