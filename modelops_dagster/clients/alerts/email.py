"""E-mail: one message per SMTP session, in plain text."""

import smtplib
import ssl
from email.message import EmailMessage

from modelops_dagster.clients.alerts.config import EmailChannel
from modelops_dagster.domain.alerts import Message
from modelops_dagster.domain.errors import AlertNotSent

DOMAIN = "modelops.invalid"  # of message ids; says nothing about the machine


class EmailSender:
    """Sends to the addresses of one channel."""

    def __init__(self, config: EmailChannel, login: tuple[str, str] | None) -> None:
        self._config, self._login = config, login

    def send(self, message: Message) -> None:
        """Hand the message to the SMTP server.

        Raises:
            AlertNotSent: the server did not take it for every address.
        """
        config = self._config
        try:
            with smtplib.SMTP(config.host, config.port, timeout=config.timeout_s) as smtp:
                if config.starttls:
                    smtp.starttls(context=ssl.create_default_context())
                if self._login:
                    smtp.login(*self._login)
                refused = smtp.send_message(mail(message, config.sender, config.to))
        except (smtplib.SMTPException, OSError) as error:
            code = getattr(error, "smtp_code", None)  # the server's text is left out: it may repeat a login
            raise AlertNotSent(
                f"channel {config.name}: {config.host}:{config.port} did not take the message "
                f"({type(error).__name__}{f' {code}' if code else ''}); check host, port, starttls and the login."
            ) from error
        if refused:
            raise AlertNotSent(f"channel {config.name}: {', '.join(refused)} was refused; correct the address.")


def mail(message: Message, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """Subject is the title; the Message-ID stays the same over attempts, so that a mailbox can drop a repetition."""
    out = EmailMessage()
    out["From"], out["To"] = sender, ", ".join(to)
    out["Subject"] = f"[modelops] {message.title}"
    out["Message-ID"] = f"<{message.message_id}@{DOMAIN}>"
    if message.severity == "critical":
        out["Importance"] = "high"
    out.set_content("\n".join([*message.lines, *(["", message.url] if message.url else []), ""]))
    return out
