"""An agent that looks after a maildir: invoices are filed, questions answered, the rest is archived. A few rules take
the place of the model; the mail is real."""

from __future__ import annotations

import email.policy
import mailbox
import os
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from adjourn.integrations.agent_program import Turn, serve

MAILDIR = Path(os.environ["ADJOURN_WORKSPACE"], "maildir")


def answer(turn: Turn) -> str:
    box = mailbox.Maildir(MAILDIR)  # made, where there is none
    if turn.text == "begin":
        return str(MAILDIR)
    names = [Path(line) for line in turn.text.splitlines()[1:]]  # the prompt's first line says what they are
    return "\n".join(handle(turn, box, path.name) for path in names if path.name in os.listdir(MAILDIR / "new"))


def handle(turn: Turn, box: mailbox.Maildir, name: str) -> str:
    mail = BytesParser(policy=email.policy.default).parsebytes((MAILDIR / "new" / name).read_bytes())
    assert isinstance(mail, EmailMessage)
    subject, sender = str(mail["subject"]), str(mail["from"])
    turn.usage(input_tokens=400, output_tokens=60)
    if "invoice" in subject.lower():
        kept, did = "Invoices", "filed under Invoices"
    elif "?" in subject:
        call = turn.tool_call("send_mail", {"to": sender})
        box.add_folder("Sent").add(reply(mail).as_bytes())
        turn.tool_result(call, "sent")
        kept, did = "Answered", "answered"
    else:
        kept, did = "Archive", "archived"
    box.add_folder(kept).add(mail.as_bytes())
    (MAILDIR / "new" / name).unlink()
    return f"{subject!r} from {sender}: {did}"


def reply(mail: EmailMessage) -> EmailMessage:
    answer = EmailMessage()
    answer["from"], answer["to"] = str(mail["to"]), str(mail["from"])
    answer["subject"] = f"Re: {mail['subject']}"
    answer["in-reply-to"] = str(mail["message-id"])
    answer.set_content("Thank you for your question. We are open from 9 to 17 on working days.\n")
    return answer


serve(answer)
