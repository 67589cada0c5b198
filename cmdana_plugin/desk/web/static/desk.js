// What the page does by itself: it takes in news as they come. Everything works without it.
"use strict";
(() => {
  const live = document.getElementById("live");
  const status = document.getElementById("status");
  if (!live || !status || !window.EventSource) return;
  let version = status.dataset.version, waiting = false, again = false;

  // Somebody who types, or has chosen text, is not disturbed: the news wait behind a button.
  const busy = () => {
    const at = document.activeElement;
    return (at && live.contains(at) && at.matches("input, select, textarea")) || String(getSelection() || "") !== "";
  };

  const take = async () => {
    if (waiting) { again = true; return; }
    waiting = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const news = page.getElementById("live"), said = page.getElementById("status");
      if (!news || !said) return;
      if (busy()) { offer(); return; }
      if (news.innerHTML !== live.innerHTML) {
        const focused = document.activeElement && live.contains(document.activeElement) ? document.activeElement.id : "";
        const open = new Set([...live.querySelectorAll("details[open] > summary")].map((s) => s.textContent));
        live.replaceChildren(...news.childNodes);
        for (const s of live.querySelectorAll("details > summary")) if (open.has(s.textContent)) s.parentNode.open = true;
        if (focused) { const same = document.getElementById(focused); if (same) same.focus({ preventScroll: true }); }
      }
      if (said.textContent !== status.textContent) status.replaceChildren(...said.childNodes);
    } finally {
      waiting = false;
      if (again) { again = false; setTimeout(take, 1000); }
    }
  };

  const offer = () => {
    if (document.getElementById("fresh")) return;
    const button = document.createElement("button");
    button.id = "fresh"; button.className = "fresh"; button.type = "button";
    button.textContent = "There is something new: show it";
    button.addEventListener("click", () => { button.remove(); getSelection().removeAllRanges(); document.activeElement.blur(); take(); });
    live.before(button);
  };

  const source = new EventSource("/news");
  source.addEventListener("changed", (event) => {
    if (event.data === version) return;
    version = event.data;
    take();
  });
  addEventListener("pagehide", () => source.close());
})();
