// The stages of a pipeline side by side, and below them the chosen one with what can be done with it.

function render({ model, el }) {
  const ending = begin({ model, el }, "wl-steps");
  const { signal } = ending;
  const list = element("ol", { className: "wl-steps-row" });
  const title = element("strong");
  const now = element("output", { className: "wl-soft", "aria-live": "polite" });
  const error = element("div", { className: "wl-error", role: "alert" });
  const left = element("span", { className: "wl-soft wl-steps-left" });
  const send = (kind) => {
    const made = button();
    made.addEventListener("click", () => model.send({ kind }));
    return made;
  };
  const [change, again, cancel] = ["change", "again", "cancel"].map(send);
  const buttons = element("div", { className: "wl-row" }, change, again, cancel, left);
  el.append(list, element("div", { className: "wl-row wl-steps-about" }, title, now), error, buttons);

  const tiles = model.get("steps").map((_, place) => tile(place));
  list.append(...tiles.map((each) => each.node));

  follow(model, signal, "steps chosen busy seconds_left words", () => {
    const steps = model.get("steps");
    list.setAttribute("aria-label", say(model, "stages"));
    steps.forEach((step, place) => tiles[place].show(step, place === model.get("chosen")));
    const step = steps[model.get("chosen")];
    title.textContent = step.title;
    now.textContent = described(step);
    error.replaceChildren(...withCode(step.error));
    error.hidden = !step.error;
    change.textContent = say(model, "change");
    again.textContent = say(model, step.seeded ? "new_seed" : "again");
    cancel.textContent = say(model, "cancel");
    change.hidden = again.hidden = model.get("busy") || !step.ready;
    cancel.hidden = !model.get("busy");
    const seconds = model.get("seconds_left");
    left.textContent = seconds === null ? "" : say(model, "time_left", { time: clock(seconds) });
  });

  follow(model, signal, "reveal", () => revealOnce(model, signal, () => el, "nearest"));

  function described(step) {
    if (step.given) return "";
    const parts = [say(model, step.state)];
    if (step.state === "running") {
      if (step.phase) parts.push(model.get("words")[`phase_${step.phase}`] ?? step.phase);
      if (step.steps > 1 && step.step !== null) parts.push(say(model, "step", step));
      if (step.segments > 1) parts.push(say(model, "segment", step));
    }
    if (step.seed !== null) parts.push(say(model, "seed", step));
    return parts.join(" · ");
  }

  function tile(place) {
    const shown = element("span", { className: "wl-step-shown" });
    const name = element("span", { className: "wl-step-name" });
    const bar = element("progress", { max: 1 });
    const choice = element("button", { type: "button", className: "wl-step" }, shown, name, bar);
    choice.addEventListener("click", () => {
      model.set("chosen", place);
      model.save_changes();
    });
    let key = "";
    return {
      node: element("li", {}, choice),
      show(step, chosen) {
        choice.setAttribute("aria-pressed", String(chosen));
        choice.dataset.state = step.state;
        name.textContent = step.title;
        choice.setAttribute("aria-label", `${place + 1}. ${step.title}: ${described(step) || say(model, "given")}`);
        const running = step.state === "running" || step.state === "queued";
        bar.style.visibility = running ? "visible" : "hidden";
        bar.setAttribute("aria-label", say(model, "progress", { stage: step.title }));
        if (running && !step.fraction) bar.removeAttribute("value");
        else bar.value = step.fraction;
        const wanted = JSON.stringify([step.path, step.version, step.path ? "" : say(model, step.state)]);
        if (wanted === key) return; // a clip keeps playing
        key = wanted;
        shown.replaceChildren(picture(step));
      },
    };
  }

  function picture(step) {
    if (!step.path) return element("span", { className: "wl-soft", textContent: say(model, step.state) });
    const src = fileUrl(step.path, step.version);
    if (step.kind === "video") {
      const clip = element("video", { src, muted: true, loop: true, playsInline: true, preload: "metadata", tabIndex: -1, "aria-hidden": "true" });
      clip.addEventListener("pointerenter", () => clip.play().catch(() => {})); // it may not be loaded yet
      clip.addEventListener("pointerleave", () => clip.pause());
      return clip;
    }
    if (step.kind === "audio") return element("span", { className: "wl-step-sound", textContent: "♫", "aria-hidden": "true" });
    return element("img", { src, alt: "", draggable: false });
  }

  return () => ending.abort();
}

export default { render };
