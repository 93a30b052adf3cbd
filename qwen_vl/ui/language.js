// The language of the page: what a visitor chose here, else the browser's. All Chinese is one, but
// Gradio's own words know two kinds of it, by these names. Runs before Gradio reads the language,
// and tells the server with each call, whose sentences are in the same one.
const languages = (() => {
	const KEY = "qwen-vl-language";
	const kept = () => {
		try {
			return localStorage.getItem(KEY);
		} catch {
			return null; // not allowed here
		}
	};
	const browsers = navigator.language ?? "en";
	const known = (name) => {
		if (!/^zh\b/i.test(name)) return "en";
		return /-(hant|tw|hk|mo)\b/i.test(name) ? "zh-TW" : "zh-CN";
	};
	const chosen = known(kept() ?? browsers);
	const isChinese = chosen !== "en";

	for (const [name, value] of Object.entries({ language: chosen, languages: [chosen] }))
		Object.defineProperty(navigator, name, { get: () => value, configurable: true });
	document.documentElement.lang = chosen;

	const plainFetch = window.fetch.bind(window);
	window.fetch = (what, options = {}) => {
		const isOwn = !(what instanceof Request) && new URL(what, location).origin === location.origin;
		if (!isOwn) return plainFetch(what, options);
		const headers = new Headers(options.headers);
		headers.set("Accept-Language", chosen);
		return plainFetch(what, { ...options, headers });
	};

	return {
		change() {
			localStorage.setItem(KEY, isChinese ? "en" : known(browsers) === "en" ? "zh-CN" : known(browsers));
			location.reload(); // what a visitor made comes back
		},
	};
})();
window.languages = languages;
