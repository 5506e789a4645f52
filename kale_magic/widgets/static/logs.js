const KEEP = 4000, NAMES = "black red green yellow blue magenta cyan white".split(" "), bytes = s => new TextEncoder().encode(s).length;
function sgr(pen, codes) {
  for (let i = 0; i < codes.length; i++) {
    const c = +codes[i] || 0, n = NAMES[c % 10];
    if (!c) { pen.f = pen.b = ""; pen.w = 0; } else if (c === 1) pen.w = 1; else if (c === 22) pen.w = 0;
    else if (c === 38 || c === 48) {
      let v = "";
      if (+codes[i + 1] === 2) { v = `rgb(${codes.slice(i + 2, i + 5).map(Number)})`; i += 4; }
      else { const k = +codes[i + 2]; v = k < 16 ? NAMES[k % 8] : k > 231 ? `rgb(${Array(3).fill(8 + 10 * (k - 232))})` : `rgb(${[36, 6, 1].map(d => { const x = Math.floor((k - 16) / d) % 6; return x && 55 + 40 * x; })})`; i += 2; }
      pen[c === 38 ? "f" : "b"] = v;
    } else if (c === 39) pen.f = ""; else if (c === 49) pen.b = "";
    else if (n && (c / 10 | 0) % 6 === 3) pen.f = n; else if (n && [4, 10].includes(c / 10 | 0)) pen.b = n;
  }
}
function ansi(s, pen) {
  let out = "";
  for (const [i, part] of s.split(/\x1b\[([0-?]*)[ -/]*([@-~])/).entries()) {
    if (i % 3 === 0 && part) {
      const t = esc(part.replace(/\x1b(\][^\x07\x1b]*(\x07|\x1b\\)?|.)|[\x00-\x08\x0b-\x1f]/g, "")), css = (/^rgb/.test(pen.f) ? `color:color-mix(in srgb,${pen.f} 70%,currentColor);` : "") + (/^rgb/.test(pen.b) ? `background:${pen.b};` : "") + (pen.w ? "font-weight:bold" : "");
      const cls = (pen.f && !/^rgb/.test(pen.f) ? `ansi-${pen.f}-fg ` : "") + (pen.b && !/^rgb/.test(pen.b) ? `ansi-${pen.b}-bg` : "");
      out += css || cls ? `<span class="${cls}" style="${css}">${t}</span>` : t;
    } else if (i % 3 === 1) pen.codes = part.split(/[;:]/); else if (i % 3 === 2 && part === "m") sgr(pen, pen.codes);
  }
  return out;
}
function render({ model, el }) {
  const root = frame(model, el, "logs", `<div class="bar"><label>Job <select class="job"></select></label><span class="doing"></span>
<label>Show <select class="src"><option value="both">stdout and stderr</option><option value="out">stdout</option><option value="err">stderr</option></select></label><span class="gap"></span>
<input type="search" placeholder="Search" aria-label="Search the log"><button data-b="prev" aria-label="Previous match">↑</button><button data-b="next" aria-label="Next match">↓</button>
<button data-b="before">Earlier</button><button data-b="follow" aria-pressed="true">Follow</button></div><div class="log" role="log" aria-live="off" aria-label="Log" tabindex="0"></div><div class="kale-say" role="status"></div>`);
  const box = one(root, ".log"), src = one(root, ".src"), word = one(root, "input"), id = `${Math.random()}`;
  let follow = true, browsing = false, start = 0, open = {}, pens = {}, found = null, soon = 0;
  const clear = at => { box.replaceChildren(); open = {}; pens = {}; start = at; };
  const show = () => { one(root, "[data-b=follow]").setAttribute("aria-pressed", follow && !browsing); };
  function draw(line, s) {
    const raw = line.raw.replace(/\r+$/, ""), last = raw.split("\r").filter(Boolean).pop() || "", pen = { ...line.pen }, html = ansi(last, pen), part = raw.includes("\r") || line.cr ? /(\d{1,3})(\.\d+)?\s?%/.exec(last) : 0;
    line.el.innerHTML = (part ? `<progress max="100" value="${part[1]}" aria-label="progress"></progress> ` : "") + (html || " ");
    line.el.className = s; line.end = pen;
  }
  function add(s, text) {
    const dirty = new Set(), pieces = text.split("\n");
    pieces.forEach((piece, i) => {
      let line = open[s];
      if (!line && (piece || i < pieces.length - 1)) {
        line = open[s] = { raw: "", pen: pens[s] || {}, el: document.createElement("div"), n: 0 };
        box.append(line.el);
      }
      if (!line) return;
      line.raw += piece; line.n += bytes(piece);
      const cut = line.raw.slice(0, -1).lastIndexOf("\r");
      if (cut > 0) { line.raw = line.raw.slice(cut); line.cr = 1; }
      if (i < pieces.length - 1) { draw(line, s); line.el._n = line.n + 1; pens[s] = line.end; delete open[s]; dirty.delete(line); } else dirty.add(line);
    });
    dirty.forEach(line => draw(line, s));
    while (box.childElementCount > KEEP) { start += box.firstChild._n || 0; box.firstChild.remove(); }
  }
  function fresh() {
    if (browsing) return;
    const tail = model.get("tail"); clear(tail.start[src.value] || 0);
    for (const [s, text] of tail.parts) if (src.value === "both" || src.value === s) add(s, text);
    box.scrollTop = box.scrollHeight; show();
  }
  const ask = (t, more) => model.send({ t, id, src: src.value, ...more });
  const look = back => { if (word.value) ask("find", { word: word.value, at: found, back }); };
  box.addEventListener("scroll", () => { if (browsing) return; follow = box.scrollHeight - box.scrollTop - box.clientHeight < 30; show(); });
  src.addEventListener("change", () => { browsing = false; found = null; fresh(); });
  word.addEventListener("input", () => { found = null; });
  word.addEventListener("keydown", e => { if (e.key === "Enter") look(e.shiftKey); e.stopPropagation(); });
  root.addEventListener("click", e => {
    const b = e.target.closest("button")?.dataset.b;
    if (b === "next" || b === "prev") look(b === "prev");
    else if (b === "follow") { follow = browsing ? true : !follow; if (browsing || follow) { browsing = false; follow = true; found = null; fresh(); } show(); }
    else if (b === "before") src.value === "both" ? say(root, "Choose stdout or stderr to go back in it.") : ask("before", { at: start });
  });
  const off = [
    chooser(model, root), listen(model, "tail", fresh),
    heard(model, {
      add: m => {
        if (!m.kept) { m.kept = 1; const t = model.get("tail"); t.parts.push(...m.parts); while (t.parts.length > 400) t.start[t.parts[0][0]] += bytes(t.parts.shift()[1]); }
        if (browsing) return;
        for (const [s, text, skipped] of m.parts) if (src.value === "both" || src.value === s) { if (skipped) add(s, `\n[... ${skipped} bytes not shown: Earlier brings them]\n`); add(s, text); }
        if (follow && !soon) soon = requestAnimationFrame(() => { soon = 0; box.scrollTop = box.scrollHeight; });
      },
      piece: m => {
        if (m.id !== id) return;
        browsing = true; show();
        if (m.before) { const old = [...box.children], high = box.scrollHeight; clear(m.start); add(m.src, m.text); open = {}; box.append(...old.slice(0, KEEP)); box.scrollTop = box.scrollHeight - high; say(root, m.start ? "" : "That is the beginning."); return; }
        clear(m.start); add(m.src, m.text); found = m.at;
        const hit = box.children[m.line]; hit?.classList.add("hit"); box.scrollIntoView({ block: "nearest" }); if (hit) box.scrollTop += hit.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2; say(root, "");
      },
      say: m => { if (!m.id || m.id === id) say(root, m.text, m.bad); },
    }),
  ];
  model.send({ t: "here" });
  return () => off.forEach(f => f());
}
export default { render };
