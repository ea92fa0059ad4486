// Equations are in the page as TeX between \( \) or \[ \]. KaTeX, beside this file, sets them; nothing is fetched.
for (const each of document.querySelectorAll(".arithmatex")) {
  const text = each.textContent.trim();
  katex.render(text.slice(2, -2), each, { displayMode: text.startsWith("\\["), throwOnError: false });
}
