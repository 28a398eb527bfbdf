const BRIEF = 10; // seconds, below which tenths are shown
const SHORTLY = 1500; // milliseconds for which it is said that something was copied

function render({ model, el }) {
  const ending = begin({ model, el }, "wl-job");
  const { signal } = ending;
  const sent = thumbnails(model, signal);

  const title = element("strong");
  const state = element("span", { className: "wl-job-state" });
  const prompt = element("div", { className: "wl-job-prompt" });
  const thumbnail = element("img", { className: "wl-job-thumbnail", alt: "", loading: "lazy" });
  thumbnail.addEventListener("error", () => (thumbnail.hidden = true)); // it was deleted, or the page serves no files
  const id = element("div", { className: "wl-soft wl-job-id" });
  const [resume, cancel] = [button(), button()];
  const bar = element("progress", { max: 1 });
  const facts = element("span", { className: "wl-soft" });
  const seed = element("button", { type: "button", className: "wl-job-seed" });
  const sound = element("input", { type: "checkbox", checked: Boolean(memory.get("sound")) });
  const soundName = element("span");
  const sounds = element("label", { className: "wl-soft wl-job-sound" }, sound, soundName);
  const now = element("output", { "aria-live": "polite" });
  const error = element("div", { className: "wl-error", role: "alert" });
  const preview = element("img", { className: "wl-job-preview" });
  const summary = element("summary");
  const log = element("pre", { tabIndex: 0 });
  const details = element("details", {}, summary, log);
  const card = element(
    "section",
    { className: "wl-card" },
    element("div", { className: "wl-job-top" }, thumbnail,
      element("div", { className: "wl-job-about" }, element("div", { className: "wl-row wl-job-head" }, title, state, resume, cancel), prompt)),
    bar,
    element("div", { className: "wl-row wl-job-facts" }, now, facts, seed),
    sounds,
    preview,
    error,
    id,
    details,
  );
  el.append(card);

  cancel.addEventListener("click", () => {
    // acknowledged before the kernel answers, which may be busy; its answer replaces this
    cancel.disabled = true;
    cancel.textContent = say(model, "cancelling");
    model.send({ kind: "cancel" });
  });

  resume.addEventListener("click", () => model.send({ kind: "resume" }));

  seed.addEventListener("click", async () => {
    await copyText(String(model.get("seed")), seed);
    seed.textContent = say(model, "seed_copied");
    setTimeout(() => (seed.textContent = say(model, "seed", { seed: model.get("seed") })), SHORTLY);
  });

  sound.addEventListener("change", () => {
    memory.set("sound", sound.checked);
    if (sound.checked) ring(true); // what it is like; and this click allows it later
  });

  const traits =
    "words title run_id state phase step steps segment segments fraction eta_seconds memory_bytes queue_place queue_paused seed elapsed cancelling";
  follow(model, signal, traits, () => {
    const value = Object.fromEntries(traits.split(" ").map((name) => [name, model.get(name)]));
    const going = value.state === "queued" || value.state === "running";
    if (value.run_id) noticeRun(value.run_id, value.state, value.fraction);
    sounds.hidden = !going;
    soundName.textContent = say(model, "sound");
    card.dataset.state = value.state;
    card.setAttribute("aria-label", value.title || say(model, "none"));
    title.textContent = value.title || say(model, "none");
    state.textContent = value.state ? say(model, value.state) : "";
    state.hidden = !value.state;
    id.textContent = value.run_id;
    resume.hidden = !(value.state === "queued" && value.queue_paused);
    resume.textContent = say(model, "resume");
    cancel.hidden = !going;
    cancel.disabled = value.cancelling;
    cancel.textContent = say(model, value.cancelling ? "cancelling" : "cancel");

    bar.hidden = !going;
    bar.setAttribute("aria-label", say(model, "progress", { stage: value.title }));
    if (value.state === "running" && value.fraction === 0) bar.removeAttribute("value");
    else bar.value = value.fraction;

    const steps = [];
    if (value.state === "queued" && value.queue_place) steps.push(say(model, "place", { place: value.queue_place }));
    if (value.state === "queued" && value.queue_paused) steps.push(say(model, "paused"));
    if (value.state === "running") {
      if (value.phase) steps.push(phaseName(value.phase));
      if (value.steps > 1 && value.step !== null) steps.push(say(model, "step", value));
      if (value.segments) steps.push(say(model, "segment", value));
    }
    now.textContent = steps.join(say(model, "separator"));

    const more = [];
    if (value.run_id && value.state && value.state !== "gone") {
      const brief = !going && value.elapsed < BRIEF;
      const time = brief ? say(model, "seconds", { seconds: value.elapsed.toFixed(1) }) : clock(value.elapsed);
      more.push(say(model, going ? "elapsed" : "took", { time }));
    }
    if (going && value.eta_seconds !== null) more.push(say(model, "left", { time: clock(value.eta_seconds) }));
    if (value.memory_bytes) more.push(say(model, "memory", { memory: size(value.memory_bytes) }));
    facts.textContent = more.join(" · ");
    seed.hidden = value.seed === null;
    seed.textContent = say(model, "seed", value);
    seed.title = say(model, "copy_seed");
  });

  function phaseName(phase) {
    const words = model.get("words");
    return words[`phase_${phase}`] ?? phase;
  }

  follow(model, signal, "prompt thumbnail pictured run_id", () => {
    prompt.textContent = prompt.title = model.get("prompt");
    prompt.hidden = !model.get("prompt");
    thumbnail.hidden = !model.get("pictured");
    if (model.get("pictured")) show(thumbnail, model.get("thumbnail"), `picture ${model.get("run_id")}`);
  });
  follow(model, signal, "error", () => {
    error.replaceChildren(...withCode(model.get("error")));
    error.hidden = !model.get("error");
  });
  follow(model, signal, "log words", () => {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    summary.textContent = say(model, "log");
    log.setAttribute("aria-label", say(model, "log"));
    log.textContent = model.get("log");
    details.hidden = !model.get("log");
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
  details.addEventListener("toggle", () => (log.scrollTop = log.scrollHeight));
  follow(model, signal, "preview preview_version words", () => {
    const version = model.get("preview_version");
    preview.hidden = !version;
    preview.alt = say(model, "preview");
    if (version) show(preview, model.get("preview"), `preview ${version}`, version);
  });

  function show(image, path, id, version) {
    if (sent.needed(path)) sent.ask(image, id);
    else image.src = fileUrl(path, version);
  }
  follow(model, signal, "reveal", () => revealOnce(model, signal, () => card, "nearest"));

  return () => {
    noticeRun(model.get("run_id"), "", 0); // no longer watched here
    ending.abort();
  };
}

export default { render };
