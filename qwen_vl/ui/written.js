// An invisible letter keeps text from turning into markup (see markup.py). It goes once the browser
// has made its mind up: out of what is shown, and out of all that is copied.
const written = (text) => text.replaceAll("\ufeff", "");

// Two of them inside of a dollar sign mark a formula, which Gradio draws a moment later.
const shownText = (text) =>
	text.replace(/(\$\ufeff{2}[^]*?\ufeff{2}\$)|\ufeff/g, (_, formula) => formula ?? "");

const clean = (root) => {
	const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const text = texts.currentNode;
		if (!text.data.includes("\ufeff")) continue;
		const parent = text.parentElement;
		// A drawing's source is read and parsed once more, by the script that draws it.
		if (parent?.closest(".message") && !parent.closest(".mermaid, .language-mermaid"))
			text.data = shownText(text.data);
	}
};

// What is written from right to left is typed so, too.
const direct = (root) => {
	if (!(root instanceof Element)) return;
	const within = root.querySelectorAll("textarea");
	for (const box of root.matches("textarea") ? [root] : within) {
		box.dir = "auto";
		if (box.matches(".edit-textarea")) setTimeout(() => box.focus()); // it has its text by then
	}
};

new MutationObserver((changes) => {
	for (const change of changes)
		change.addedNodes.forEach((node) => {
			clean(node);
			direct(node);
		});
}).observe(document.documentElement, { childList: true, subtree: true });

// The editor of a question holds what the page was given.
document.addEventListener("focusin", ({ target }) => {
	if (!target.matches("textarea") || !target.value.includes("\ufeff")) return;
	target.value = written(target.value);
	target.dispatchEvent(new Event("input", { bubbles: true }));
});

if (navigator.clipboard) {
	const write = navigator.clipboard.writeText.bind(navigator.clipboard);
	navigator.clipboard.writeText = (text) => write(written(text));
}

document.addEventListener("copy", (event) => {
	const box = document.activeElement;
	const inBox = box && typeof box.selectionStart === "number";
	const text = inBox
		? box.value.slice(box.selectionStart, box.selectionEnd)
		: String(document.getSelection());
	if (text.includes("\ufeff")) {
		event.clipboardData.setData("text/plain", written(text));
		event.preventDefault();
	}
});
