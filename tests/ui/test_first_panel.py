"""What the first panel of a page is made of: every widget is a message, and the page is there when all have come."""

import json
import subprocess
import sys

import pytest

from tests.queue_for_tests import REPOSITORY

# counts what a kernel sends until a cell is done, and in all, when what could wait has been made too
COUNT = """
import asyncio, json, sys
import ipykernel.ipkernel, ipywidgets, comm
from comm.base_comm import BaseComm

sent = dict.fromkeys(("comm_open", "comm_msg", "comm_close"), 0)

class Counted(BaseComm):
    def publish_msg(self, msg_type, **_):
        sent[msg_type] += 1

comm.create_comm = lambda *given, **named: Counted(*given, **named)
before = set(sys.modules)

async def cell():
    from wanavatar_lab.ui.widget import Look
    {cell}
    first, modules = dict(sent), len(set(sys.modules) - before)
    for widget in list(ipywidgets.Widget.widgets.values()):
        if isinstance(widget, Look):
            widget.set_state({{"drawn": True}})  # as the page says
    await asyncio.sleep(0.1)
    gallery = "wanavatar_lab.ui.gallery" in sys.modules
    print(json.dumps({{"first": first, "all": sent, "modules": modules, "gallery": gallery}}))

asyncio.run(cell())
"""
PANEL = """
    from wanavatar_lab.requests import SpeechToVideo
    from wanavatar_lab.ui.panel import Panel
    panel = Panel(SpeechToVideo, profile="pocket")
"""
PAGE = """
    from wanavatar_lab.ui.page import Page
    page = Page(profile="pocket")
"""


@pytest.mark.parametrize(("cell", "widgets", "changes", "modules"), [(PANEL, 129, 93, 152), (PAGE, 85, 42, 159)])
def test_few_messages_stand_between_a_cell_and_its_panel(cell: str, widgets: int, changes: int, modules: int) -> None:
    code = COUNT.format(cell=cell.strip())
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    counted = json.loads(told.stdout)
    assert counted["first"]["comm_open"] <= widgets
    assert counted["first"]["comm_msg"] <= changes
    assert counted["modules"] <= modules
    assert not counted["gallery"]
    # the rest is there a moment later: fields that one sets seldom, and what takes dropped files
    assert counted["all"]["comm_open"] > counted["first"]["comm_open"] + 15
