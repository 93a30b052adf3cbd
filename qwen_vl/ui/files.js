// The address of a file in the page's cache, also where the page lies under a path.
window.fileUrl = (path) => {
	const root = window.gradio_config?.root ?? "";
	return `${root}/gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;
};
