// Says that the server does not answer, within seconds, and takes it back when it does again.
// Drafts stay: keeping.js has them.
{
	const LOOK_EVERY_MS = 3000;
	const PATIENCE_MS = 15000; // a busy server may take its time
	const note = document.createElement("div");
	note.id = "server-gone";
	note.setAttribute("role", "alert");

	const answers = async () => {
		const root = window.gradio_config?.root ?? "";
		try {
			const signal = AbortSignal.timeout(PATIENCE_MS);
			const got = await fetch(`${root}/gradio_api/app_id`, { cache: "no-store", signal });
			return got.status < 502 || got.status > 504; // what a proxy says for a dead server
		} catch {
			return false;
		}
	};

	const look = async () => {
		if (!document.hidden) {
			const isGone = !(await answers());
			if (isGone && !note.isConnected) {
				document.body.append(note); // first: an alert is read when its text changes
				note.textContent = say("server_gone");
			}
			if (!isGone) note.remove();
		}
		setTimeout(look, LOOK_EVERY_MS);
	};

	setTimeout(look, LOOK_EVERY_MS);
}
