// Files that are dropped or pasted anywhere on the page go where files are added on the tab in view.
const adding = (() => {
	const PANELS = "#chat-tab, #video-tab, #compare-tab";
	const WAIT_MS = 10_000; // for a part of the page that Gradio builds late
	const panel = () => [...document.querySelectorAll(PANELS)].find((one) => one.checkVisibility());
	const hasFiles = (data) => [...(data?.types ?? [])].includes("Files");

	// The input itself is never visible. It is gone while the player shows another clip.
	const inputOf = async (place) => {
		const clear = [...place.querySelectorAll("#clip .icon-button-wrapper button")].at(-1);
		clear?.click(); // its name is in the visitor's language
		for (const end = performance.now() + WAIT_MS; performance.now() < end; ) {
			const input = place.querySelector("input[type=file]");
			if (input) return input;
			await new Promise(requestAnimationFrame);
		}
		return null;
	};

	const give = async (files, place) => {
		const input = place && (await inputOf(place));
		if (!input) return;
		const data = new DataTransfer();
		for (const file of input.multiple ? files : files.slice(0, 1)) data.items.add(file);
		input.files = data.files;
		input.dispatchEvent(new Event("change", { bubbles: true }));
		place.querySelector("#chat-box textarea, #compare-box textarea")?.focus();
	};

	const mark = (place) => {
		for (const one of document.querySelectorAll(PANELS)) one.classList.toggle("takes-drop", one === place);
	};

	// Before Gradio's parts see them, so that there is one way for all.
	const first = { capture: true };
	const dragged = {
		dragenter: mark,
		dragover: () => {},
		dragleave: (place, event) => event.relatedTarget || mark(null),
		drop(place, event) {
			mark(null);
			give([...event.dataTransfer.files], place);
		},
	};
	for (const [name, act] of Object.entries(dragged))
		addEventListener(
			name,
			(event) => {
				if (!hasFiles(event.dataTransfer)) return;
				event.preventDefault(); // else the browser leaves the page and opens the file
				event.stopPropagation();
				act(panel(), event);
			},
			first,
		);
	addEventListener(
		"paste",
		(event) => {
			const files = [...(event.clipboardData?.files ?? [])];
			const isText = event.clipboardData?.types.includes("text/plain"); // spreadsheets send both
			const isField = event.target.closest?.("input, textarea, [contenteditable]");
			if (!files.length || (isText && isField)) return;
			event.preventDefault();
			event.stopPropagation();
			give(files, panel());
		},
		first,
	);

	return { give, inputOf };
})();
window.adding = adding;
