// Options are searched as they are typed: to the search engine, the dash of `--dry-run` means "without".
const QUERY = 2; // the kind of message that holds what is searched
const send = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...more) {
  const query = message.type === QUERY ? { ...message, data: message.data.replace(/(^|\s)-+/g, "$1") } : message;
  return send.call(this, query, ...more);
};
