// What Gradio's parts lack for keyboards and screen readers.
(() => {
	const question = () =>
		[...document.querySelectorAll("#chat-box textarea, #question textarea")].find((box) =>
			box.checkVisibility(),
		);

	// The arrow of a folded block is a button inside a button: the outer one does the same.
	watching(".thought-group > .title", (title) => {
		const arrow = title.querySelector("button");
		if (arrow) {
			arrow.disabled = true;
			arrow.setAttribute("aria-hidden", "true");
		}
		title.setAttribute("aria-expanded", String(title.classList.contains("expanded")));
	});

	// Lists that are none: their children are buttons, or they have no list around them.
	for (const [part, role] of Object.entries({ ".examples": "group", ".thumbnail-wrapper": "group" }))
		watching(part, (element) => element.setAttribute("role", role));

	// An error looks like one, and is read out.
	watching(".thought-group, #video-note", (note) => {
		const isError = note.textContent.trim().startsWith("⚠️");
		note.classList.toggle("is-error", isError);
		if (isError) note.setAttribute("role", "alert");
		else note.removeAttribute("role");
	});

	watching("#chat", (chat) => {
		const images = chat.querySelectorAll(".user-row img");
		images.forEach((image, index) => {
			image.alt ||= say("picture", { n: index + 1 });
		});
	});

	// The question comes first: it has the focus as the page opens, and the first Tab goes there.
	const first = new MutationObserver(() => {
		const box = question();
		if (!box) return;
		first.disconnect();
		if (document.activeElement === document.body) box.focus({ preventScroll: true });
	});
	first.observe(document.documentElement, { childList: true, subtree: true });
	document.addEventListener("keydown", (event) => {
		if (event.key !== "Tab" || event.shiftKey || document.activeElement !== document.body) return;
		const box = question();
		if (!box) return;
		event.preventDefault();
		box.focus();
	});
})();
