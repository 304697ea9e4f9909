// A button in each block of code that copies it, without prompts and what they answered.
document.addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("div.highlight")) {
    const button = document.createElement("button");
    button.className = "copy";
    button.textContent = "copy";
    button.addEventListener("click", async () => {
      const text = block.querySelector("pre").innerText;
      const typed = text.split("\n").filter((line) => /^(>>>|\.\.\.)/.test(line)).map((line) => line.slice(4));
      await navigator.clipboard.writeText(typed.length ? typed.join("\n") : text);
      button.textContent = "copied";
    });
    block.append(button);
  }
});
