"""The look of panels and of the page: a widget that shows nothing and brings the style sheet for their fields."""

import anywidget

from wanavatar_lab.ui.widget import styles


class Look(anywidget.AnyWidget):
    """The styles of `static/panel.css` and `static/page.css`, once per page however many of these there are."""

    _esm = "export default { render() {} };"
    _css = styles("panel", "page")

    def __init__(self) -> None:
        super().__init__(layout={"display": "none"})
