// Stands for a bundler: writes what the server serves.
const fs = require("node:fs");

fs.mkdirSync("public", { recursive: true });
fs.writeFileSync("public/built.txt", `built with node ${process.version}\n`);
