const INKS = ["#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490", "#a16207", "#be185d"], NIGHT = ["#7aa2ff", "#f97316", "#4ade80", "#c084fc", "#f87171", "#22d3ee", "#facc15", "#f472b6"];
function space(model, root) {
  const box = document.createElement("div");
  box.className = "space"; box.hidden = true;
  box.innerHTML = `<canvas tabindex="0" role="img"></canvas><div class="bar"><button class="play" aria-pressed="false">Play</button><label class="when"><span></span> <input type="range" min="0" step="1"></label> <output></output><label><input type="checkbox" class="trail"> all up to then</label><button class="home">Turn back</button></div><div class="soft">Turn by dragging or arrow keys, + and - zoom, Home turns back.</div>`;
  one(root, ".charts").before(box);
  const canvas = one(box, "canvas"), slider = one(box, ".when input"), trail = one(box, ".trail"), play = one(box, ".play"), pen = canvas.getContext("2d");
  let c, data = new Uint16Array(), yaw, pitch, zoom, soon = 0, timer = 0, drag, touched = false;
  const home = () => { yaw = -0.6; pitch = 0.45; zoom = 1; };
  const at = () => +slider.value;
  function place(x, y, z) {
    const a = x * Math.cos(yaw) - y * Math.sin(yaw), b = x * Math.sin(yaw) + y * Math.cos(yaw), s = zoom * Math.min(canvas.clientWidth, canvas.clientHeight * 1.25) * 0.52;
    return [canvas.clientWidth / 2 + a * s, canvas.clientHeight / 2 - (z * Math.cos(pitch) + b * Math.sin(pitch)) * s, b * Math.cos(pitch) - z * Math.sin(pitch)];
  }
  function paint() {
    soon = 0;
    const w = canvas.clientWidth, h = canvas.clientHeight, d = devicePixelRatio || 1;
    if (!w || !c) return;
    canvas.width = w * d; canvas.height = h * d; pen.scale(d, d); pen.clearRect(0, 0, w, h);
    const style = getComputedStyle(root), ink = style.getPropertyValue("--ink").trim() || "#222", inks = document.body.dataset.jpThemeLight === "false" ? NIGHT : INKS;
    pen.strokeStyle = style.getPropertyValue("--line"); pen.globalAlpha = 0.6; pen.beginPath();
    const k = [-0.5, 0.5], far = (a, b) => { pen.moveTo(...place(...a)); pen.lineTo(...place(...b)); };
    for (const p of k) for (const q of k) { far([-0.5, p, q], [0.5, p, q]); far([p, -0.5, q], [p, 0.5, q]); far([p, q, -0.5], [p, q, 0.5]); }
    pen.stroke(); pen.globalAlpha = 1; pen.fillStyle = ink; pen.font = "11px system-ui"; pen.textAlign = "center";
    [[0, -0.58, -0.58], [0.58, 0, -0.58], [-0.58, -0.58, 0]].forEach((p, i) => { if (c.names[i]) pen.fillText(`${c.names[i]}: ${c.spans[i].join(" to ")}`, ...place(...p).slice(0, 2)); });
    const [from, to] = range(), list = [];
    for (let i = from; i < to; i++) { const j = 4 * i, p = place(data[j] / 65535 - 0.5, data[j + 1] / 65535 - 0.5, data[j + 2] / 65535 - 0.5); p.push(data[j + 3], i); list.push(p); }
    list.sort((a, b) => b[2] - a[2]);
    const now = at() ? c.ends[at() - 1] : 0;
    for (const [x, y, deep, g, i] of list) { pen.globalAlpha = (0.95 - 0.35 * (deep + 0.5)) * (trail.checked && i < now ? 0.7 : 1); pen.fillStyle = inks[g % inks.length]; pen.beginPath(); pen.arc(x, y, (3.2 - deep) * Math.sqrt(zoom), 0, 7); pen.fill(); }
    pen.globalAlpha = 1;
    if (c.groups.length > 1) c.groups.slice(0, 8).forEach((g, i) => { pen.fillStyle = inks[i % 8]; pen.textAlign = "left"; pen.fillText(`● ${g}`, 8, 16 + 14 * i); });
    Object.assign(canvas.dataset, { shown: list.length, yaw: yaw.toFixed(2), pitch: pitch.toFixed(2), zoom: zoom.toFixed(2) });
    const moment = c.frames.length ? `${c.names[3]} = ${c.frames[at()]}` : "", [x, y, z] = c.names;
    canvas.setAttribute("aria-label", c.total ? `3-D scatter of ${z} over ${x} and ${y}: ${list.length} of ${c.total} points at ${moment}. ${c.names.slice(0, 3).map((n, i) => `${n} ${c.spans[i].join(" to ")}`).join(", ")}. Arrow keys turn it.` : "3-D scatter: no points yet");
    one(box, "output").textContent = moment; slider.setAttribute("aria-valuetext", moment);
  }
  const range = () => c.ends.length ? [trail.checked || !at() ? 0 : c.ends[at() - 1], c.ends[at()]] : [0, 0];
  const later = () => { soon ||= requestAnimationFrame(paint); };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", false); };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (at() >= +slider.max) slider.value = 0;
    touched = true; play.textContent = "Hold"; play.setAttribute("aria-pressed", true);
    timer = setInterval(() => { if (at() >= +slider.max || !canvas.isConnected) return stop(); slider.value = at() + 1; later(); }, Math.max(40, Math.min(400, 6000 / (c.frames.length || 1))));
  });
  slider.addEventListener("input", () => { touched = at() < +slider.max; later(); });
  trail.addEventListener("change", () => { trail.dataset.set = 1; later(); });
  one(box, ".home").addEventListener("click", () => { home(); later(); });
  box.addEventListener("keydown", e => e.stopPropagation());
  canvas.addEventListener("keydown", e => {
    const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[e.key];
    if (turn) { yaw += turn[0]; pitch += turn[1]; } else if (e.key === "+" || e.key === "-") zoom *= e.key === "+" ? 1.15 : 1 / 1.15; else if (e.key === "Home") home(); else return;
    e.preventDefault(); later();
  });
  canvas.addEventListener("pointerdown", e => { drag = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", e => { if (!drag) return; yaw += (e.clientX - drag[0]) / 150; pitch += (e.clientY - drag[1]) / 150; drag = [e.clientX, e.clientY]; later(); });
  canvas.addEventListener("pointerup", () => { drag = 0; });
  home();
  const sizes = new ResizeObserver(later), theme = new MutationObserver(later);
  sizes.observe(canvas); theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  const offs = [
    listen(model, "cloud", () => {
      const was = at(), of = model.get("choice").file; c = model.get("cloud");
      if (box.dataset.of !== of) { touched = false; delete trail.dataset.set; box.dataset.of = of; }
      const v = c.data; data = v.byteLength ? new Uint16Array(v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength)) : new Uint16Array();
      slider.max = Math.max(0, c.frames.length - 1); slider.value = touched ? was : slider.max;
      if (!trail.dataset.set) trail.checked = c.frames.length * 2 > (c.ends.at(-1) || 0);
      one(box, ".when span").textContent = c.names[3] || "time"; later();
    }),
    listen(model, "choice", () => { const is = model.get("choice").kind === "space"; box.hidden = !is; one(root, ".charts").hidden = is; if (is) later(); else stop(); }),
  ];
  return () => { offs.forEach(f => f()); sizes.disconnect(); theme.disconnect(); stop(); cancelAnimationFrame(soon); };
}
