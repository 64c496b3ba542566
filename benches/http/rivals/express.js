// What a Node application does: express-session in Redis, loaded on every request. As connect-redis
// documents it, which also moves the expiry of the session at every request.

import { parseArgs } from "node:util";

import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";

const { values } = parseArgs({
  options: {
    listen: { type: "string", default: `127.0.0.1:${process.env.PORT ?? 0}` },
    redis: { type: "string" },
  },
});

const client = createClient({ socket: { path: values.redis } });
await client.connect();

const app = express();
app.disable("x-powered-by");
app.use(
  session({
    store: new RedisStore({ client }),
    resave: false,
    saveUninitialized: false,
    secret: "of this benchmark",
  }),
);

app.post("/login", express.json(), (request, response) => {
  request.session.user = request.body;
  response.status(204).end();
});

app.all("/authz/auth-request", (request, response) => {
  const user = request.session.user;
  if (user === undefined) {
    response.status(401).end();
    return;
  }
  response.set({
    "Remote-User": user.user,
    "Remote-Groups": user.roles.join(","),
    "Remote-Email": user.email,
    "Remote-Name": user.name,
    "Remote-Session": request.sessionID,
    "Cache-Control": "no-store",
    // express-session sends the head before Node knows that no body comes, which would be chunked.
    "Content-Length": "0",
  });
  response.status(200).end();
});

const [host, port] = values.listen.split(":");
const server = app.listen(Number(port), host, () => {
  console.error(`listening ${host}:${server.address().port}`);
});
