const express = require("express");

const app = express();
app.use(express.static("public"));
app.get("/", (request, response) => {
  const environment = process.env.FLYLOFT_ENV ?? "nowhere in particular";
  response.send(`Hello from Express in ${environment}\n`);
});

const port = process.env.PORT ?? 3000;
app.listen(port, () => console.log(`listening on ${port}`));
