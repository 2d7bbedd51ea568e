// What the console does besides showing pages: it keeps the overview true, and helps a little with
// forms. Every page works without it.
"use strict";

(() => {
  const EVERY = 5000; // milliseconds between two readings
  const PATIENCE = 8000; // milliseconds for one answer
  const json = { headers: { Accept: "application/json" }, credentials: "same-origin" };

  const slot = (box, name, text) => {
    const place = box.querySelector(`[data-slot="${name}"]`);
    if (place && place.textContent !== text) place.textContent = text;
  };
  const clock = (date) => date.toLocaleTimeString([], { hour12: false });

  // --- the overview

  const showPart = (part) => {
    const box = document.querySelector(`[data-part="${CSS.escape(part.key)}"]`);
    if (!box) return;
    box.dataset.state = part.state;
    slot(box, "label", part.label);
    slot(box, "detail", part.detail);
  };

  const showFigure = (figure) => {
    const box = document.querySelector(`[data-figure="${CSS.escape(figure.key)}"]`);
    if (!box) return;
    box.dataset.state = figure.state;
    slot(box, "value", figure.value);
    slot(box, "unit", figure.unit);
    slot(box, "note", figure.note);
    box.querySelector(".chart").setAttribute("aria-label", figure.chart.summary);
    box.querySelector(".chart-line").setAttribute("d", figure.chart.line);
    box.querySelector(".chart-area").setAttribute("d", figure.chart.area);
  };

  const made = (tag, kind, text) => {
    const one = document.createElement(tag);
    one.className = kind;
    one.textContent = text;
    return one;
  };

  const showMatters = (matters) => {
    const box = document.querySelector("[data-matters]");
    const lines = matters.map((matter) => {
      const line = made("li", `matter matter-${matter.tone}`, "");
      line.append(made("span", "break", matter.text));
      if (matter.action) {
        const link = made("a", "", matter.action);
        link.href = matter.address;
        line.append(" ", link);
      }
      return line;
    });
    const list = box.querySelector("ul");
    box.hidden = lines.length === 0;
    const same = list.children.length === lines.length
      && lines.every((line, at) => line.isEqualNode(list.children[at]));
    if (!same) list.replaceChildren(...lines);
  };

  const showBadges = (badges) => {
    document.querySelectorAll("[data-page]").forEach((link) => {
      const badge = badges[link.dataset.page];
      link.querySelector(".badge")?.remove();
      if (!badge) return;
      const shown = made("span", `badge badge-${badge.tone}`, badge.number);
      shown.title = `${badge.number} ${badge.meaning}`;
      shown.append(made("span", "visually-hidden", ` ${badge.meaning}`));
      link.append(shown);
    });
  };

  const live = (status) => {
    let timer = null;
    let last = null;
    let stopped = false;

    const signedOut = () => {
      stopped = true;
      const link = document.createElement("a");
      link.href = status.dataset.login;
      link.textContent = "log in again";
      status.dataset.lost = "";
      status.replaceChildren("The session has ended: ", link, ".");
    };

    const read = async () => {
      try {
        const signal = AbortSignal.timeout(PATIENCE);
        const answer = await fetch(status.dataset.live, { ...json, signal });
        if (answer.status === 401) return signedOut();
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const view = await answer.json();
        view.parts.forEach(showPart);
        view.figures.forEach(showFigure);
        showMatters(view.matters);
        showBadges(view.badges);
        last = new Date();
        delete status.dataset.lost;
        status.textContent = `Live, read at ${clock(last)}`;
      } catch {
        status.dataset.lost = "";
        const since = last ? ` since ${clock(last)}` : "";
        status.textContent = `Not reachable${since}; what is shown may be old. Trying again.`;
      }
    };

    const turn = async () => {
      timer = null;
      await read();
      if (!stopped && !document.hidden && timer === null) timer = setTimeout(turn, EVERY);
    };

    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      timer = null;
      if (!document.hidden && !stopped) turn();
    });
    if (!document.hidden) timer = setTimeout(turn, EVERY);
  };

  // --- moments

  const span = (seconds) => {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.round(seconds)} s`;
  };

  const age = () => {
    document.querySelectorAll("time[datetime]").forEach((time) => {
      const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
      const size = Math.abs(seconds);
      const text = size < 2 ? "just now" : seconds > 0 ? `${span(size)} ago` : `in ${span(size)}`;
      if (time.textContent !== text) time.textContent = text;
    });
  };

  // --- forms

  const selection = (form) => {
    const boxes = [...form.querySelectorAll('input[name="sequence"]:not(:disabled)')];
    const label = form.querySelector("[data-select-all]");
    const all = label.querySelector("input");
    const buttons = form.querySelectorAll("[data-selected]");
    const show = () => {
      const number = boxes.filter((box) => box.checked).length;
      all.checked = number > 0 && number === boxes.length;
      all.indeterminate = number > 0 && number < boxes.length;
      buttons.forEach((button) => {
        button.disabled = number === 0;
        const more = button.dataset.more || "";
        button.textContent = button.dataset.selected + (number ? ` (${number})` : "") + more;
      });
    };
    label.hidden = boxes.length === 0;
    all.addEventListener("change", () => {
      boxes.forEach((box) => { box.checked = all.checked; });
      show();
    });
    form.addEventListener("change", show);
    show();
  };

  const once = (form) => {
    // A second press while the first one is under way would do it twice.
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent !== undefined) return event.preventDefault();
      form.dataset.sent = "";
      form.setAttribute("aria-busy", "true");
    });
  };

  const copying = (button) => {
    if (!navigator.clipboard) return; // there is none without HTTPS
    button.hidden = false;
    const name = button.textContent;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not permitted";
      }
      setTimeout(() => { button.textContent = name; }, 2000);
    });
  };

  // A link from elsewhere comes without the cookie (SameSite=Strict); this page itself has it.
  const resume = async (main) => {
    try {
      const answer = await fetch(main.dataset.known, json);
      if (answer.ok && (await answer.json()).known) location.replace(main.dataset.onward);
    } catch {
      // then the form is there
    }
  };

  // On a telephone the menu is wider than the screen. `scrollIntoView` would let the Tab key begin
  // behind what it shows, and not at the top of the page.
  const current = document.querySelector(".menu [aria-current]");
  if (current) {
    const menu = current.closest(".menu");
    const hidden = current.getBoundingClientRect().right - menu.getBoundingClientRect().right;
    if (hidden > 0) menu.scrollLeft += hidden;
  }
  document.querySelectorAll("[data-live]").forEach(live);
  document.querySelectorAll("[data-selection]").forEach(selection);
  document.querySelectorAll('form[method="post"]').forEach(once);
  document.querySelectorAll("[data-copy]").forEach(copying);
  document.querySelectorAll("[data-known]").forEach(resume);
  setInterval(age, 5000);
  window.addEventListener("pageshow", () => {
    document.querySelectorAll("form[data-sent]").forEach((form) => {
      delete form.dataset.sent;
      form.removeAttribute("aria-busy");
    });
  });
})();
