// Files that are dropped or pasted anywhere on the page go where files are added on the tab in view.
{
	const inView = (selector) =>
		[...document.querySelectorAll(selector)].find((found) => found.checkVisibility());
	const target = () => inView("#chat-box textarea, #compare-box textarea") ?? inView("#video-tab input[type=file]");
	const hasFiles = (data) => [...(data?.types ?? [])].includes("Files");
	const isHandled = (event) =>
		!!event.target.closest?.("#chat-box, #compare-box, [data-testid='file-upload'], button:has(input[type=file])");

	const give = (files) => {
		const place = target();
		if (!place) return;
		const data = new DataTransfer();
		for (const file of files) data.items.add(file);
		if (place.matches("input")) {
			place.files = data.files;
			place.dispatchEvent(new Event("change", { bubbles: true }));
			return;
		}
		const dropped = { dataTransfer: data, bubbles: true, cancelable: true };
		place.dispatchEvent(new DragEvent("drop", dropped));
		place.focus();
	};

	addEventListener("dragover", (event) => hasFiles(event.dataTransfer) && event.preventDefault());
	addEventListener("drop", (event) => {
		if (!hasFiles(event.dataTransfer)) return;
		event.preventDefault(); // else the browser leaves the page and opens the file
		if (!isHandled(event)) give([...event.dataTransfer.files]);
	});
	addEventListener("paste", (event) => {
		const files = [...(event.clipboardData?.files ?? [])];
		if (!files.length || event.target.closest?.("input, textarea, [contenteditable]")) return;
		event.preventDefault();
		give(files);
	});
}
