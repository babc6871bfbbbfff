// Formulas, on the pages that have some (the notebooks): MathJax lies beside this script.
(() => {
  const here = document.currentScript.src;
  if (!/\$[^$]+\$|\\\(|\\\[/.test(document.querySelector("article")?.textContent ?? "")) return;
  if (!document.querySelector(".jupyter-wrapper")) return;
  window.MathJax = {
    tex: { inlineMath: [["$", "$"], ["\\(", "\\)"]], displayMath: [["$$", "$$"], ["\\[", "\\]"]] },
    options: { enableMenu: false },
  };
  const script = document.createElement("script");
  script.src = new URL("tex-svg.js", here).href;
  document.head.append(script);
})();
