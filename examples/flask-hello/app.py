"""A guest book of one page: enough to see that a push arrives, and that it is this commit that answers."""

import os
import socket

from flask import Flask, render_template, request

app = Flask(__name__)


@app.get("/")
def hello():
    return render_template(
        "hello.html",
        name=request.args.get("name", "world"),
        environment=os.environ.get("FLYLOFT_ENV", "nowhere in particular"),
        commit=os.environ.get("GIT_REV", "")[:10],
        process=os.environ.get("DYNO", ""),
        host=socket.gethostname(),
    )


@app.get("/health")
def health():
    return {"status": "ok"}
