"""`frankenstream tasks`: what can be asked of a frame, and teaching more of it, also while a server runs."""

from __future__ import annotations

from cyclopts import App

app = App(name="tasks", help="List tasks, add your own from pictures or from a live camera, change and remove them.")

_HERE = "frankenstream.cli.tasks"
for _name, _target, _help in (
    ("list", "showing:list_tasks", "List the tasks with their heads and their measured accuracy."),
    ("info", "showing:info", "Show a task's labels, and for one of yours how good it is and its versions."),
    ("add", "adding:add", "Teach a task from labelled pictures, and hand it to a running server."),
    ("capture", "few_shot:capture", "Collect examples of one label from what a live camera sees."),
    ("teach", "few_shot:teach", "Train a task from its examples and swap it in, within seconds."),
    ("test", "trying:ask", "Ask a task of yours about a picture, through the codec."),
    ("send", "changing:send", "Hand a task of yours to a running server."),
    ("rollback", "changing:rollback", "Take an earlier version of a task back."),
    ("remove", "changing:remove", "Stop offering a task; its versions stay unless purged."),
    ("export", "changing:export", "Write a task to a .zip that `tasks add` reads on another machine."),
    ("choose", "changing:choose", "Give a live edge other tasks."),
):
    app.command(f"{_HERE}.{_target}", name=_name, help=_help)
