// A bar that says what is gone or was not taken, and offers to bring it back or elsewhere.
const undo = (() => {
	const SHOWN_MS = 20_000;
	let bar = null;
	let timer = 0;

	const close = () => {
		clearTimeout(timer);
		bar?.remove();
		bar = null;
	};

	const button = (inside, onClick) => {
		const made = document.createElement("button");
		made.append(inside);
		made.addEventListener("click", onClick);
		return made;
	};

	const show = (text, ...buttons) => {
		close();
		bar = document.createElement("div");
		bar.id = "undo-bar";
		bar.setAttribute("role", "status");
		const away = button(icons.close(), close);
		away.setAttribute("aria-label", say("close"));
		bar.append(text, ...buttons, away);
		// Whatever lies outside of an open dialog cannot be clicked.
		(document.querySelector("dialog[open]") ?? document.body).append(bar);
		timer = setTimeout(close, SHOWN_MS);
	};

	return {
		tell: (text) => show(text),
		offer(text, bringBack, name = say("undo")) {
			const back = button(name, () => {
				close();
				bringBack();
			});
			show(text, back);
		},
		// A dialog closes: the bar stays.
		leave: () => bar && document.body.append(bar),
	};
})();
window.undo = undo;
