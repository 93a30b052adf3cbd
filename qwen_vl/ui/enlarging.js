// A click on a picture of a question, sent or not, shows the whole of it.
(() => {
	const SENT = ".user-row .image-container > button";
	const ADDED = ":is(#chat-box, #compare-box) .thumbnail-item > img";

	const enlarge = (image) => {
		const dialog = document.createElement("dialog");
		dialog.className = "enlarged";
		const whole = document.createElement("img");
		whole.src = image.currentSrc || image.src;
		whole.alt = image.alt || say("picture", { n: 1 });
		const close = document.createElement("button");
		close.type = "button";
		close.append(icons.close());
		close.setAttribute("aria-label", say("close"));
		dialog.setAttribute("aria-label", whole.alt);
		dialog.append(whole, close);
		dialog.addEventListener("click", () => dialog.close()); // the browser gives the focus back
		dialog.addEventListener("close", () => dialog.remove());
		document.body.append(dialog);
		dialog.showModal();
	};

	// Gradio's thumbnails are no buttons.
	watching(":is(#chat-box, #compare-box) .thumbnails", (row) => {
		row.querySelectorAll(".thumbnail-item > img").forEach((image, index) => {
			const name = say("enlarge", { n: index + 1 });
			Object.assign(image, { alt: name, tabIndex: 0 });
			image.setAttribute("role", "button");
		});
	});
	const act = (event) => {
		const found = event.target.closest?.(`${SENT}, ${ADDED}`);
		if (!found) return;
		event.preventDefault();
		event.stopPropagation();
		found.focus();
		enlarge(found.matches("img") ? found : found.querySelector("img"));
	};
	addEventListener("click", act, { capture: true });
	addEventListener(
		"keydown",
		(event) => [" ", "Enter"].includes(event.key) && event.target.matches?.(ADDED) && act(event),
		{ capture: true },
	);

	// The camera opens below the box: it comes into view as it grows.
	const seen = new ResizeObserver(([{ target }]) => {
		if (target.querySelector(".label-wrap.open")) target.scrollIntoView({ block: "nearest" });
	});
	watching("#webcam-panel", (panel) => seen.observe(panel));
})();
