// How a file below the server's root becomes a URL: Lab serves it at files/, Voilà at voila/files/. Pages that are not
// Jupyter's, as those of VS Code and Colab, have no such configuration and serve no files.

function pageConfig() {
  const data = document.getElementById("jupyter-config-data");
  return data ? JSON.parse(data.textContent) : {};
}

const config = pageConfig();
const inVoila = (config.appUrl || "").replaceAll("/", "") === "voila" || "voila" in document.body.dataset;
const baseUrl = config.baseUrl || document.body.dataset.baseUrl || "/";
const servesFiles = "baseUrl" in config || inVoila || "baseUrl" in document.body.dataset; // the last in Notebook 6

function fileUrl(path, version) {
  const name = path.split("/").map(encodeURIComponent).join("/");
  // a file that was replaced under its old name must not come from the browser's cache
  return baseUrl + (inVoila ? "voila/files/" : "files/") + name + (version ? `?v=${encodeURIComponent(version)}` : "");
}
