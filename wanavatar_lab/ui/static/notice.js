// Tells a person who looks elsewhere how a run goes: its share in the tab's title while it runs, a mark there when it has
// ended, until the page is looked at again, and a sound if one is wanted. All cards of a page share one title.

const titles = (window.wanavatarTitles ??= { plain: "", running: new Map(), ended: "" });

function showTitle() {
  const { running, ended } = titles;
  if (!titles.plain) titles.plain = document.title;
  const shares = [...running.values()];
  const share = shares.length ? `${Math.floor(100 * Math.max(...shares))} % · ` : "";
  document.title = `${ended}${share}${titles.plain}`;
  if (!ended && !share) titles.plain = ""; // Lab changes the title when another notebook is shown
}

// Called at every change of a run: its id, its state, and the share that is done, 0 to 1.
function noticeRun(id, state, share) {
  const going = state === "queued" || state === "running";
  const was = titles.running.has(id);
  if (going) titles.running.set(id, share);
  else titles.running.delete(id);
  if (!going && !was) return;
  if (was && !going && state) {
    if (document.hidden || !document.hasFocus()) titles.ended = state === "succeeded" ? "✓ " : "✗ ";
    if (memory.get("sound")) ring(state === "succeeded");
  }
  showTitle();
}

if (!window.wanavatarTitles.hears) {
  titles.hears = true;
  const seen = () => {
    if (document.hidden || !titles.ended) return;
    titles.ended = "";
    showTitle();
  };
  window.addEventListener("focus", seen);
  document.addEventListener("visibilitychange", seen);
}

// Two short tones, rising where it went well. A browser allows sound once a person has clicked on the page.
function ring(well) {
  const audio = new AudioContext();
  const pitches = well ? [660, 880] : [440, 330];
  pitches.forEach((pitch, index) => {
    const [tone, level] = [audio.createOscillator(), audio.createGain()];
    const begin = audio.currentTime + 0.16 * index;
    tone.frequency.value = pitch;
    level.gain.setValueAtTime(0.12, begin);
    level.gain.exponentialRampToValueAtTime(0.001, begin + 0.15);
    tone.connect(level).connect(audio.destination);
    tone.start(begin);
    tone.stop(begin + 0.16);
  });
  setTimeout(() => audio.close(), 600);
}
