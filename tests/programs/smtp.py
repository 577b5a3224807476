"""A server of SMTP on a port of its own: smtp.py FOLDER.

It writes its port to FOLDER/port. The first recipient that it is told it refuses for now, as a grey list does, and makes
FOLDER/refused. Each message that it takes is FOLDER/<n>.eml, with who sent it and whom it is for in two headers in front.
"""

import asyncio
import os
import sys

from aiosmtpd.smtp import SMTP

folder = sys.argv[1]


class Handler:
    """Keeps what it is sent."""

    taken = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        mark = os.path.join(folder, "refused")
        if not os.path.exists(mark):
            open(mark, "w").close()
            return "451 4.7.1 not now"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        Handler.taken += 1
        head = f"X-Sender: {envelope.mail_from}\nX-Recipients: {' '.join(envelope.rcpt_tos)}\n"
        path = os.path.join(folder, f"{Handler.taken}.eml")
        with open(path + ".new", "wb") as file:
            file.write(head.encode() + envelope.content.replace(b"\r\n", b"\n"))
        os.rename(path + ".new", path)
        return "250 OK"


async def serve():
    """Takes connections until it is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler()), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with open(os.path.join(folder, "port.new"), "w") as file:
        file.write(f"{port}\n")
    os.rename(os.path.join(folder, "port.new"), os.path.join(folder, "port"))
    await server.serve_forever()


asyncio.run(serve())
