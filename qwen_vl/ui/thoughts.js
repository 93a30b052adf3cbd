// A thought is copied apart from its answer: its block has a button of its own while it is open.
const addCopyButton = (content) => {
	if (content.querySelector(":scope > .copy-thought")) return;
	const button = document.createElement("button");
	button.className = "copy-thought";
	button.textContent = say("thought_copy");
	button.addEventListener("click", () => {
		const shown = content.querySelector(".message-content") ?? content;
		navigator.clipboard?.writeText(shown.innerText.trim());
	});
	content.append(button);
};

new MutationObserver((changes) => {
	for (const { addedNodes } of changes)
		for (const node of addedNodes) {
			if (!(node instanceof Element)) continue;
			const found = node.closest(".thought-group > .content");
			const inside = node.querySelectorAll(".thought-group > .content");
			for (const content of [...(found ? [found] : []), ...inside]) addCopyButton(content);
		}
}).observe(document.documentElement, { childList: true, subtree: true });
