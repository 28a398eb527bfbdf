function render({ model, el }) {
  const ending = begin({ model, el }, "wl-wave");
  const { signal } = ending;
  const canvas = element("canvas", { role: "img" });
  const audio = element("audio", { controls: true, preload: "metadata" });
  const start = element("input", { type: "number", min: 0, step: 0.1 });
  const end = element("input", { type: "number", min: 0, step: 0.1 });
  const [startText, endText] = [element("span"), element("span")];
  const [play, whole] = [button(), button()];
  const chosen = element("output", { className: "wl-soft" });
  const error = element("div", { className: "wl-error", role: "alert" });
  follow(model, signal, "error", () => {
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
  });
  el.append(error, canvas, audio, element("div", { className: "wl-row" },
    element("label", { className: "wl-row" }, startText, start),
    element("label", { className: "wl-row" }, endText, end), play, whole, chosen));

  const value = (name) => model.get(name);
  const choose = (from, to) => {
    const [low, high] = [Math.max(0, Math.min(from, to)), Math.min(value("duration"), Math.max(from, to))];
    if (!(high - low >= 0.05)) return tell(); // too short, or not a number: the selection stays
    model.set({ start: Math.round(low * 1000) / 1000, end: Math.round(high * 1000) / 1000 });
    model.save_changes();
  };
  const draw = (from = value("start"), to = value("end")) => {
    const duration = value("duration") || 1;
    drawWave(canvas, value("peaks"), { at: audio.currentTime / duration, from: from / duration, to: to / duration });
  };
  const tell = () => {
    start.value = Number(value("start").toFixed(2));
    end.value = Number(value("end").toFixed(2));
    start.max = end.max = value("duration");
    chosen.textContent = say(model, "chosen", {
      length: (value("end") - value("start")).toFixed(1), duration: value("duration").toFixed(1) });
    draw();
  };
  follow(model, signal, "path words", () => {
    const name = value("path").split("/").pop();
    if (audio.getAttribute("src") !== fileUrl(value("path"))) audio.src = fileUrl(value("path"));
    audio.setAttribute("aria-label", say(model, "sound", { name }));
    canvas.setAttribute("aria-label", say(model, "wave"));
    startText.textContent = say(model, "start");
    endText.textContent = say(model, "end");
    play.textContent = say(model, "play");
    whole.textContent = say(model, "whole");
  });
  follow(model, signal, "start end duration peaks words", tell);
  start.addEventListener("change", () => choose(start.valueAsNumber, value("end")));
  end.addEventListener("change", () => choose(value("start"), end.valueAsNumber));
  whole.addEventListener("click", () => choose(0, value("duration")));

  let until = null; // where "play the part" stops
  play.addEventListener("click", () => {
    until = value("end");
    audio.currentTime = value("start");
    audio.play();
  });
  audio.addEventListener("timeupdate", () => {
    if (until !== null && audio.currentTime >= until) audio.pause();
  });
  audio.addEventListener("pause", () => (until = null));
  keepDrawn(canvas, audio, signal, () => draw());

  let from = null;
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * value("duration");
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = event;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from && Math.abs(event.clientX - from.clientX) > 3) draw(...[under(from), under(event)].sort((a, b) => a - b));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (Math.abs(event.clientX - from.clientX) > 3) choose(under(from), under(event));
    else audio.currentTime = under(event);
    from = null;
  });
  return () => ending.abort();
}

export default { render };
