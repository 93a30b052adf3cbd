// A sentence of the page's scripts, as in strings.py, in the language of the page.
window.say = (name, fields = {}) =>
	window.scriptWords[navigator.language.startsWith("zh") ? "zh" : "en"][name].replace(
		/\{(\w+)\}/g,
		(_, field) => fields[field],
	);
