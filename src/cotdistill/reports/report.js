
"use strict";
// Filters the questions; without this script every question is simply shown.
const form = document.getElementById("filters");
const by = form.elements;
const questions = [...document.querySelectorAll("details.question")];
const methods = [...by.method.options].map(o => o.value).filter(v => v && v !== "teacher");
// A question's categories and mistakes: for each method, or the teacher alone, those of its samples.
const split = text => (text || "").split(" ").map(c => c.split(","));
const facts = questions.map(q => ({
  keys: q.classList.contains("training") ? ["teacher"] : methods,
  categories: split(q.dataset.categories), mistakes: split(q.dataset.mistakes),
}));
let texts; // made on the first search: a page can hold megabytes

function disagree(fact, a, b) {
  const [x, y] = [a, b].map(m => (fact.categories[fact.keys.indexOf(m)] || ["not_asked"])[0]);
  const said = c => !["not_asked", "not_scored", "error"].includes(c);
  return said(x) && said(y) && (x === "correct") !== (y === "correct");
}

function wanted(fact) {
  const value = name => (by[name] ? by[name].value : "");
  const [which, method, category, mistake, a, b] = ["which", "method", "category", "mistake", "a", "b"].map(value);
  if (which && (which === "training") !== (fact.keys[0] === "teacher")) return false;
  if (a && b && !disagree(fact, a, b)) return false;
  if (!method && !category && !mistake) return true;
  return fact.keys.some((key, k) => (!method || key === method)
    && (!category || fact.categories[k].includes(category))
    && (!mistake || (fact.mistakes[k] || []).includes(mistake)));
}

function filter() {
  const words = by.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length && !texts) texts = questions.map(q => q.textContent.toLowerCase());
  let shown = 0;
  questions.forEach((q, i) => {
    const match = wanted(facts[i]) && words.every(w => texts[i].includes(w));
    if (q.hidden === match) q.hidden = !match;
    shown += match;
  });
  const number = n => n.toLocaleString("en");
  document.getElementById("shown").textContent = `Showing ${number(shown)} of ${number(questions.length)} questions`;
}

function openTarget() {
  const target = document.querySelector("details.question:target");
  if (!target) return;
  if (target.hidden) { form.reset(); filter(); }
  target.open = true;
  target.scrollIntoView();
  target.firstElementChild.focus({preventScroll: true});
}

function move(step) {
  const shown = questions.filter(q => !q.hidden);
  const here = document.activeElement.closest("details.question");
  const next = shown[here ? shown.indexOf(here) + step : 0];
  if (!next) return;
  next.firstElementChild.focus({preventScroll: true});
  next.scrollIntoView({block: "nearest"});
}

const help = document.getElementById("help");
const onQuestion = () => document.activeElement.matches("details.question > summary");
const keys = {
  "j": () => move(1), "k": () => move(-1), "o": () => onQuestion() && document.activeElement.click(),
  "/": () => by.search.focus(), "?": () => help.showModal(),
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const writing = event.target.matches("input, select, textarea");
  if (writing) { if (event.key === "Escape") event.target.blur(); return; }
  const arrow = onQuestion() && {ArrowDown: "j", ArrowUp: "k"}[event.key];
  const action = keys[arrow || event.key];
  if (action) { event.preventDefault(); action(); }
});

form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
document.getElementById("keys").addEventListener("click", () => help.showModal());
addEventListener("hashchange", openTarget);
addEventListener("load", openTarget);
form.hidden = document.getElementById("keys").hidden = false;
filter();
