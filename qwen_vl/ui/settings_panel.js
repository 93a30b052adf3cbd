// The settings lie behind a button of the header; whether they are open is remembered.
const settingsPanel = (() => {
	const KEY = "qwen-vl-settings";
	const WIDE_PX = 1100; // on a narrower screen the open panel covers the chat

	const own = () => document.querySelector("#sidebar .toggle-button"); // Gradio's
	const panel = () => document.querySelector("#sidebar");
	const isOpen = () => Boolean(panel()?.classList.contains("open"));

	const tell = () => {
		document.querySelector("#open-settings")?.setAttribute("aria-expanded", String(isOpen()));
		try {
			localStorage.setItem(KEY, isOpen() ? "open" : "closed");
		} catch {
			// not allowed here: then it is closed the next time
		}
	};

	// Gradio puts things on the page a moment after it says so.
	const soon = (isThere, act, tries = 100) => {
		if (isThere()) act();
		else if (tries) setTimeout(() => soon(isThere, act, tries - 1), 30);
	};

	document.addEventListener("click", ({ target }) => {
		if (target.closest?.("#sidebar .toggle-button")) setTimeout(tell);
	});

	return {
		toggle() {
			own()?.click();
		},
		restore() {
			let before = null;
			try {
				before = localStorage.getItem(KEY);
			} catch {
				return;
			}
			if (before !== "open" || innerWidth < WIDE_PX) return;
			soon(own, () => isOpen() || own().click());
		},
	};
})();
window.settingsPanel = settingsPanel;
