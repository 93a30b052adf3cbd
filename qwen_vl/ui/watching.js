// Calls `look(element)` for each element that matches, whenever something changes inside it or it
// comes new. Changes that `look` makes itself do not count again.
window.watching = (selector, look) => {
	const observer = new MutationObserver((changes) => {
		const found = new Set();
		const add = (element) => element && found.add(element);
		for (const { target, addedNodes } of changes) {
			const parent = target instanceof Element ? target : target.parentElement;
			add(parent?.closest(selector));
			for (const node of addedNodes) {
				if (!(node instanceof Element)) continue;
				if (node.matches(selector)) add(node);
				for (const inside of node.querySelectorAll(selector)) add(inside);
			}
		}
		for (const element of found) if (element.isConnected) look(element);
		observer.takeRecords();
	});
	observer.observe(document.documentElement, {
		childList: true,
		characterData: true,
		subtree: true,
	});
};
