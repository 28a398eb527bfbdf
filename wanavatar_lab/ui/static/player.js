const USUAL_FPS = 25; // for a file without a frame rate

function render({ model, el }) {
  const ending = begin({ model, el }, "wl-player");
  let shown = null;
  follow(model, ending.signal, "paths kind version peaks", () => {
    if (shown) shown.abort();
    shown = new AbortController();
    el.replaceChildren(build(model, el, shown.signal));
  });
  return () => {
    shown.abort();
    ending.abort();
  };
}

function build(model, el, signal) {
  const kind = model.get("kind");
  const paths = model.get("paths");
  const media = paths.map((path, index) => one(kind, path, model.get("version"), index, paths.length));
  const figures = media.map((medium, index) => {
    const caption = element("figcaption");
    const broken = element("div", { className: "wl-error", role: "alert", hidden: true });
    follow(model, signal, "words labels", () => {
      const name = model.get("labels")[index] ?? "";
      const isHeard = media.length > 1 && index === 0 && kind === "video" && model.get("heard");
      caption.textContent = isHeard ? say(model, "with_sound", { name }) : name;
      const text = say(model, kind, { name });
      if (kind === "picture") medium.alt = text;
      else medium.setAttribute("aria-label", text);
      broken.textContent = say(model, "broken", { name });
    });
    medium.addEventListener("error", () => (broken.hidden = false), { signal });
    return element("figure", {}, medium, broken, caption);
  });
  if (model.get("file")) draggable(figures[0], () => ({ run: model.get("run"), file: model.get("file"), kind, path: paths[0] }));
  const root = element("div", {}, element("div", { className: "wl-player-row" }, ...figures));
  if (!servesFiles || model.get("paths").includes("")) root.append(askForCopies(model, media, signal));
  if (kind === "picture") return root;
  const peaks = model.get("peaks");
  if (peaks.length) root.append(waveform(model, media[0], peaks, signal));
  if (media.length > 1) {
    const frame = 1 / (model.get("fps") || USUAL_FPS);
    keepInSync(media, frame, signal);
    if (kind === "video") root.append(bothControls(model, media, frame, signal));
  }
  root.append(controls(model, el, media, kind, signal));
  signal.addEventListener("abort", () => media.forEach((medium) => medium.pause()));
  return root;
}

// Where the page serves no files, or not those of another folder, the kernel sends a small one whole, and of a large one a picture.
function askForCopies(model, media, signal) {
  const note = element("div", { className: "wl-soft", role: "note" });
  const names = new Map(); // of the texts that say what is shown
  const tell = () => (note.textContent = [...new Set(names.values())].map((name) => say(model, name)).join(" "));
  follow(model, signal, "words", tell);
  hear(model, signal, (content, buffers) => {
    const medium = content.kind === "copy" && media[content.index];
    if (!medium) return;
    names.set(content.index, servesFiles ? "outside" : !buffers.length ? "no_copy" : content.whole ? "copy" : "poster");
    tell();
    if (!buffers.length) return;
    const url = URL.createObjectURL(new Blob([buffers[0]], { type: content.type }));
    signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    medium[content.whole || medium.tagName === "IMG" ? "src" : "poster"] = url;
  });
  model.send({ kind: "copies" });
  return note;
}

function one(kind, path, version, index, count) {
  const src = servesFiles && path ? fileUrl(path, version) : "";
  if (kind === "picture") {
    const picture = element("img", { ...(src && { src }), loading: "lazy" });
    // a wide one, such as a contact sheet, may be lower than the minimum height
    picture.addEventListener("load", () => picture.classList.toggle("wl-wide", picture.naturalWidth > 2 * picture.naturalHeight));
    return picture;
  }
  if (kind === "audio") return element("audio", { ...(src && { src }), controls: true, preload: "metadata" });
  // of two clips only the first has sound, and both share a row of controls
  return element("video", { ...(src && { src }), controls: count === 1, muted: index > 0, preload: "metadata", playsInline: true });
}

function controls(model, el, media, kind, signal) {
  const leader = media[0];
  const row = element("div", { className: "wl-row wl-player-controls" });
  const loop = button();
  const setLoop = (on) => {
    model.set("loop", on);
    model.save_changes();
  };
  loop.addEventListener("click", () => setLoop(!model.get("loop")));
  follow(model, signal, "loop words", () => {
    leader.loop = model.get("loop"); // the others follow it
    loop.setAttribute("aria-pressed", String(model.get("loop")));
    loop.textContent = say(model, "loop");
  });
  const fps = model.get("fps");
  const step = (frames) => {
    if (kind !== "video" || !fps) return;
    media.forEach((medium) => medium.pause());
    // to the middle of a frame: its edge may round to the neighbour
    const frame = Math.floor(leader.currentTime * fps + 1e-3) + frames;
    const last = (model.get("frames") ?? Infinity) - 1;
    leader.currentTime = (Math.max(0, Math.min(frame, last)) + 0.5) / fps;
  };
  if (kind === "video" && fps) {
    const [back, next] = [button(), button()];
    const place = element("output", { className: "wl-soft" });
    const hint = element("span", { className: "wl-soft wl-player-keys" });
    back.addEventListener("click", () => step(-1));
    next.addEventListener("click", () => step(1));
    const tell = () => {
      const frames = model.get("frames");
      const frame = Math.min(Math.floor(leader.currentTime * fps + 1e-3) + 1, frames ?? Infinity);
      place.textContent = frames ? say(model, "frame", { frame, frames }) : "";
    };
    for (const event of ["timeupdate", "seeked", "loadedmetadata"]) leader.addEventListener(event, tell, { signal });
    follow(model, signal, "words", () => {
      back.textContent = say(model, "back");
      next.textContent = say(model, "next");
      hint.textContent = say(model, "keys");
      tell();
    });
    row.append(back, next, loop, place, hint);
  } else {
    row.append(loop);
  }
  el.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === ",") step(-1);
      else if (event.key === ".") step(1);
      else if (event.key.toLowerCase() === "l") setLoop(!model.get("loop"));
      else return;
      event.preventDefault();
      event.stopPropagation();
    },
    { signal },
  );
  return row;
}

function waveform(model, medium, peaks, signal) {
  const canvas = element("canvas", { className: "wl-player-wave", role: "img" });
  follow(model, signal, "words", () => canvas.setAttribute("aria-label", say(model, "wave")));
  keepDrawn(canvas, medium, signal, () =>
    drawWave(canvas, peaks, { at: medium.duration ? medium.currentTime / medium.duration : 0 }));
  canvas.addEventListener("click", (event) => {
    if (medium.duration) medium.currentTime = (event.offsetX / canvas.clientWidth) * medium.duration;
  }, { signal });
  return canvas;
}

export default { render };
