"""The pages as people see them: the form, the jobs, and the errors, with Bootstrap served by us."""

import re

from flask import Flask
from flask_bootstrap import Bootstrap5
from markupsafe import Markup, escape

from web.pages.routes import pages
from web.pages.statistics import STATISTICS, Statistics
from web.services import EXTENSION

_BETWEEN_BACKTICKS = re.compile(r"`([^`]+)`")


def register(app: Flask) -> None:
    """Add the pages and what their templates use."""
    app.config["BOOTSTRAP_SERVE_LOCAL"] = True
    Bootstrap5().init_app(app)
    app.jinja_env.filters["commands"] = mark_commands
    own = app.extensions[EXTENSION]
    app.extensions[STATISTICS] = Statistics(own.database, own.storage, own.settings)
    app.register_blueprint(pages)


def mark_commands(text: str) -> Markup:
    """Text as HTML, what stands between backticks as code."""
    return Markup(_BETWEEN_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))
